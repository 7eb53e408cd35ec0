"""StyleGAN2-ADA and StyleGAN3: the regularizers as upstream's augment_pipe, whose p upstream's controller moves.

A launched or patched train.py calls ``options`` and ``configure``; upstream's training loop builds the rest by name. A
DiffAugment in upstream's loss, as in the official code of DiffAugment, is off under every ``--reg``.
"""

import ast
import inspect
import textwrap
from typing import Any

import click
from torch import nn

from . import resuming, spider, train_options
from .snapshot_parts import TOLD, Pipe, TellT, add_hook, construct, full_name
from .train_options import Host, Regularizers, require

_HOST = Host("ADA", noise={"uniform": "new_data", "priority": "stylegan2"})

options = train_options.options(_HOST)


def configure(args: Any, desc: str) -> str:
    """Put what the options ``--reg...`` and ``--spider...`` ask for into upstream's configuration.

    Args:
        args: the keyword arguments of upstream's training_loop, changed in place.
        desc: the name of the run.

    Returns:
        The name of the run with the regularizers and what G is fed in it.

    Raises:
        click.UsageError: options that make no sense together, or not with the snapshot of ``--resume``.
    """
    return put(args, desc, train_options.resolve(_HOST, args.random_seed), resuming.load(args))


def put(args: Any, desc: str, regularizers: Regularizers | None, snapshot: dict[str, Any] | None) -> str:
    """What ``configure`` does with the options, once they are resolved and the snapshot of ``--resume`` is loaded."""
    told = _told(args, regularizers, snapshot)
    resuming.check(args, snapshot, TOLD[told])
    desc = spider.configure(args, desc, snapshot)
    if regularizers is None:
        return desc
    require("D_kwargs", "loss_kwargs", "augment_kwargs", "augment_p", "ada_target", "ada_kimg")
    _refuse_other_calls(args.loss_kwargs.class_name)
    if policy := args.loss_kwargs.get("diffaugment"):
        args.loss_kwargs.diffaugment = ""
        desc = desc.replace(f"-{policy.replace(',', '-')}", "", 1)
    pipe = {"class_name": full_name(Pipe), "diffaug": regularizers.diffaug, "noise": regularizers.noise}
    if regularizers.mode.startswith("ada"):
        pipe["ada"] = args.augment_kwargs
    put_pipe(args, pipe, regularizers, snapshot and snapshot["augment_pipe"])
    if told != "none":
        args.D_kwargs.update(class_name=full_name(told_discriminator), base=args.D_kwargs.class_name, told=told)
    return desc + regularizers.desc


def put_pipe(
    args: Any, pipe: dict[str, Any], regularizers: Regularizers, before: nn.Module | None, name: str = "augment"
) -> None:
    """Let upstream build the pipe, and move its p if there is a noise.

    Args:
        args: the keyword arguments of upstream's training_loop, changed in place.
        pipe: those of the pipe.
        regularizers: what was asked for.
        before: the pipe of the snapshot of ``--resume``.
        name: what upstream calls the pipe.
    """
    args[f"{name}_kwargs"] = pipe
    if regularizers.noise is None:
        args[f"{name}_p"] = 1.0
        args.pop("ada_target", None)
        return
    args.update({f"{name}_p": 0.0, "ada_target": regularizers.target, "ada_kimg": regularizers.kimg})
    if args.get("resume_pkl"):
        args[f"{name}_p"] = _resume(args.resume_pkl, before, pipe)


def told_discriminator(base: str, told: str, c_dim: int, **kwargs: Any) -> nn.Module:
    """Upstream's discriminator with room for t beside the label, and a hook that puts it there."""
    D = construct({"class_name": base, "c_dim": c_dim + TOLD[told], **kwargs})
    add_hook(D._forward_pre_hooks, TellT(told))
    add_hook(D._forward_pre_hooks_with_kwargs, True)
    return D


def _told(args: Any, regularizers: Regularizers | None, snapshot: dict[str, Any] | None) -> str:
    """What D is told of t beside the label, of which upstream's D and G of a snapshot have as many numbers."""
    if snapshot is None:
        return resuming.told(args, regularizers, None)
    labels = snapshot["G"].c_dim
    before = {width: told for told, width in TOLD.items()}.get(snapshot["D"].c_dim - labels, "none")
    told = resuming.told(args, regularizers, before)
    if told != "none" and bool(labels) != bool(args.training_set_kwargs.use_labels):
        raise click.UsageError(f"{args.resume_pkl} was trained {'with' if labels else 'without'} --cond")
    return told


def _resume(resume_pkl: str, before: nn.Module | None, pipe: dict[str, Any]) -> float:
    """Go on with p, which is returned, and with the noise's T and list where its settings are those of the snapshot."""
    noise = before.regularizer.noise if isinstance(before, Pipe) else None
    if noise is None:
        print(f"{resume_pkl} has no state of the noise, which starts at p = 0")
        return 0.0
    p = float(before.p.nan_to_num(float(noise.p)).clamp(0, 1))
    if p != float(noise.p):  # the snapshot was taken between a move of p and the next batch
        noise.set_p(p, redraw=True)
    if others := [name for name, value in pipe["noise"].items() if getattr(noise, name) != value]:
        print(f"{resume_pkl} has another {' and '.join(others)}, so of its noise only p = {p:g} goes on")
        return p
    pipe["state"] = {name: value.tolist() for name, value in noise.state_dict().items()}
    print(f"{resume_pkl} goes on with p = {p:g}, T = {int(noise.T)}")
    return p


def _refuse_other_calls(loss: str) -> None:
    """Stop if upstream's loss gives its augment_pipe anything beside images, which is all that ours takes."""
    import dnnlib

    for part in dnnlib.util.get_obj_by_name(loss).__mro__[:-1]:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(part)))):
            if not isinstance(node, ast.Call) or getattr(node.func, "attr", None) != "augment_pipe":
                continue
            if len(node.args) + len(node.keywords) != 1:
                raise click.UsageError(
                    f"{loss} augments more than images, which --reg does not; choose another loss or leave --reg out"
                )
