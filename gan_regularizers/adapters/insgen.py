"""InsGen: as StyleGAN2-ADA, with contrastive branches that see augmented images without noise."""

from typing import Any

import click
import torch
from torch import Tensor, nn

from . import resuming, stylegan, train_options
from .snapshot_parts import construct, full_name
from .train_options import Host, refuse

VIEWS_P = 0.2  # of the augmentation of the contrastive branches, in the official Diffusion-InsGen code

_HOST = Host("ADA", noise={"uniform": "insgen", "priority": "insgen"}, spider=False)

options = train_options.options(_HOST)


def configure(args: Any, desc: str) -> str:
    """``stylegan.configure``, and an augmentation of their own for the contrastive branches where D's input has noise.

    The branches compare two views of an image. As in the official code, upstream's own augmentation makes them, with
    p = ``VIEWS_P``, and D is told t = 0.

    A snapshot without D_ema or the branches' heads, such as StyleGAN2-ADA's, goes on with what ``generator`` adds.
    """
    given = train_options.given()
    if args.get("ada_linear") and given.get("reg") == "diffaug":
        raise click.UsageError("--ada_linear moves p, which --reg=diffaug does not have")
    if args.get("ada_linear") and "kimg" in given:
        refuse(
            "kimg", given["kimg"], "has no effect with --ada_linear, where p rises to --reg-target over the whole run"
        )
    views = args.get("augment_kwargs")
    regularizers = train_options.resolve(_HOST, args.random_seed)
    snapshot = resuming.load(args)
    desc = stylegan.put(args, desc, regularizers, snapshot)
    if snapshot is not None:
        _complete(args, snapshot)
    if "diffusion" in given.get("reg", "none") and args.DHead_kwargs is not None:
        if views is None:
            raise click.UsageError("--aug=noaug leaves InsGen's contrastive branches without views; leave it out")
        args.loss_kwargs.update(class_name=full_name(loss), base=args.loss_kwargs.class_name, views=views)
    return desc


def generator(base: str, **kwargs: Any) -> nn.Module:
    """Upstream's generator; in passing, what upstream's loop loads to resume from gets the parts that it lacks.

    D_ema is its D. A head without parameters leaves that of the run as it is.
    """
    import legacy

    load = legacy.load_network_pkl

    def complete(*args: Any, **kwargs: Any) -> dict[str, Any]:
        data = load(*args, **kwargs)
        parts = {"D_ema": data["D"], "DHead": nn.Module(), "GHead": nn.Module()}
        return {**data, **{name: part for name, part in parts.items() if data.get(name) is None}}

    legacy.load_network_pkl = complete
    return construct({"class_name": base, **kwargs})


def loss(base: str, views: dict[str, Any], device: torch.device, **kwargs: Any) -> Any:
    """Upstream's loss, whose contrastive branches see images through the augmentation ``views``."""
    import dnnlib

    class Loss(dnnlib.util.get_obj_by_name(base)):
        def run_cl(self, *args: Any, **kwargs: Any) -> Tensor:
            pipe, self.augment_pipe = self.augment_pipe, augment
            try:
                return super().run_cl(*args, **kwargs)
            finally:
                self.augment_pipe = pipe

    augment = construct(views).requires_grad_(False).to(device)
    augment.p.fill_(VIEWS_P)
    return Loss(device=device, **kwargs)


def _complete(args: Any, snapshot: dict[str, Any]) -> None:
    """Have ``generator`` complete a snapshot that needs it, and say so."""
    heads = [name for name in ("DHead", "GHead") if args.get(f"{name}_kwargs") and snapshot.get(name) is None]
    begin = [] if snapshot.get("D_ema") is not None else ["no D_ema, which starts as its D"]
    begin += [f"no {' and '.join(heads)}, which start{'s' * (len(heads) == 1)} afresh"] if heads else []
    if begin:
        print(f"{args.resume_pkl} has {'; '.join(begin)}")
        args.G_kwargs.update(class_name=full_name(generator), base=args.G_kwargs.class_name)
