"""InsGen: as StyleGAN2-ADA, with contrastive branches that see augmented images without noise."""

from typing import Any

import click
import torch
from torch import Tensor

from . import stylegan, train_options
from .snapshot_parts import construct, full_name
from .train_options import Host, refuse

VIEWS_P = 0.2  # of the augmentation of the contrastive branches, in the official Diffusion-InsGen code

_HOST = Host("ADA", noise={"uniform": "insgen", "priority": "insgen"}, spider=False)

options = train_options.options(_HOST)


def configure(args: Any, desc: str) -> str:
    """``stylegan.configure``, and an augmentation of their own for the contrastive branches where D's input has noise.

    The branches compare two views of an image. As in the official code, upstream's own augmentation makes them, with
    p = ``VIEWS_P``, and D is told t = 0.
    """
    given = train_options.given()
    if args.get("ada_linear") and given.get("reg") == "diffaug":
        raise click.UsageError("--ada_linear moves p, which --reg=diffaug does not have")
    if args.get("ada_linear") and "kimg" in given:
        refuse(
            "kimg", given["kimg"], "has no effect with --ada_linear, where p rises to --reg-target over the whole run"
        )
    views = args.get("augment_kwargs")
    desc = stylegan.configure(args, desc, _HOST)
    if "diffusion" in given.get("reg", "none") and args.DHead_kwargs is not None:
        if views is None:
            raise click.UsageError("--aug=noaug leaves InsGen's contrastive branches without views; leave it out")
        args.loss_kwargs.update(class_name=full_name(loss), base=args.loss_kwargs.class_name, views=views)
    return desc


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
