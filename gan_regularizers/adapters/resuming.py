"""What the training loop will do with the snapshot of ``--resume``, said before anything is made.

Upstream copies parameters and buffers by their names: what a snapshot lacks stays as it was made, and ``Tensor.copy_``
repeats a tensor along dimensions of 1, or fails where shapes differ otherwise.
"""

from contextlib import redirect_stdout
from typing import Any

import click
from torch import Tensor, nn

from .snapshot_parts import construct
from .train_options import Regularizers, load_snapshot, refuse

_NETWORKS = ("G", "D", "DHead", "GHead")
_SETTINGS = (  # what messages say of a network, where it has it
    "c_dim z_dim w_dim img_resolution img_channels channel_base channel_max inplanes queue_size".split()
)


def load(args: Any) -> dict[str, Any] | None:
    """The contents of the snapshot, or None without ``--resume``."""
    return load_snapshot(args.resume_pkl) if args.get("resume_pkl") else None


def check(args: Any, snapshot: dict[str, Any] | None, told: int = 0) -> None:
    """Print what starts afresh or is repeated.

    Args:
        args: the keyword arguments of upstream's training_loop, whose networks are upstream's own so far.
        snapshot: its contents, if there is one.
        told: in how many numbers D is told t, beside the label.

    Raises:
        click.UsageError: a network whose shapes are others.
    """
    lacking, repeated, others = [], [], []
    for name in _NETWORKS:
        old = (snapshot or {}).get(name)
        new = _build(args, name, told) if isinstance(old, nn.Module) else None
        if new is None:
            continue
        before, after = _tensors(old), _tensors(new)
        both = [(key, before[key], after[key]) for key in after if key in before]
        other = _other(name, old, new)
        for key, source, target in both:
            if not _copies(source, target):
                other = other or f"its {name} has {key} of {list(source.shape)}, that of this run {list(target.shape)}"
                raise click.UsageError(
                    f"--resume={args.resume_pkl} does not fit: {other}; "
                    "resume with data and options like its own, or leave --resume out"
                )
        others += [other] if other else []
        wanted = [key for key, _ in new.named_parameters()]
        if count := len(set(wanted) - before.keys()):
            lacking.append(f"{count} of the {len(wanted)} parameters of {name}")
        if count := sum(source.shape != target.shape for _, source, target in both):
            repeated.append(f"{count} tensors of {name}")
    why = f" ({others[0]})" if others else ""
    if lacking:
        print(f"{args.resume_pkl} lacks {' and '.join(lacking)}, which start afresh{why}")
    if repeated:
        print(f"{args.resume_pkl} is repeated to fill {' and '.join(repeated)}{why}")


def told(args: Any, regularizers: Regularizers | None, before: str | None) -> str:
    """What D is told of t: what was asked for, or ``t``; a snapshot's D goes on as it was.

    Args:
        args: the keyword arguments of upstream's training_loop.
        regularizers: what was asked for.
        before: what the snapshot's D is told, if there is one.

    Raises:
        click.UsageError: something else was asked for, or a D that is told t has no noise.
    """
    noisy = regularizers is not None and regularizers.noise is not None
    asked = regularizers.condition if noisy else None
    if before is None:
        return (asked or "t") if noisy else "none"
    if asked not in (None, before):
        refuse("condition", asked, f"does not fit {args.resume_pkl}, whose D was trained with --reg-condition={before}")
    if before != "none" and not noisy:
        raise click.UsageError(f"the D of {args.resume_pkl} is told t of a noise; --reg needs diffusion")
    if before == "none" and asked is None and noisy:
        print(f"The D of {args.resume_pkl} was not told t, and is not told it now")
    return before


def _build(args: Any, name: str, told: int) -> nn.Module | None:
    """A network as the training loop makes it; None where that is not possible here, which is for the loop to say."""
    kwargs = args.get(f"{name}_kwargs")
    if not kwargs:
        return None
    try:
        if name in ("G", "D"):
            data = construct(args.training_set_kwargs)
            c_dim = data.label_dim + (told if name == "D" else 0)
            kwargs = {**kwargs, "c_dim": c_dim, "img_resolution": data.resolution, "img_channels": data.num_channels}
        with redirect_stdout(None):
            return construct(kwargs)
    except Exception:  # a fork's loop may make them otherwise
        return None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _copies(source: Tensor, target: Tensor) -> bool:
    """Whether ``target.copy_(source)`` is possible."""
    sides = zip(reversed(source.shape), reversed(target.shape), strict=False)
    return source.ndim <= target.ndim and all(side in (1, wanted) for side, wanted in sides)


def _other(name: str, old: nn.Module, new: nn.Module) -> str:
    """The settings that differ, in words; empty where none does."""
    before, after = _settings(old), _settings(new)
    names = [key for key in before if key in after and before[key] != after[key]]
    there, here = (", ".join(f"{key}={settings[key]}" for key in names) for settings in (before, after))
    return f"its {name} has {there}, that of this run {here}" if names else ""


def _settings(network: nn.Module) -> dict[str, Any]:
    kwargs = getattr(network, "init_kwargs", {})  # of upstream's persistent classes
    given = {**kwargs.get("mapping_kwargs", {}), **kwargs.get("synthesis_kwargs", {}), **kwargs}
    found = {name: getattr(network, name, given.get(name)) for name in _SETTINGS}
    return {name: value for name, value in found.items() if value is not None}
