"""R3GAN, DeceiveD and what is built like them: the regularizers before D, and AdaptiveT in the loss.

For a training loop without a controller of upstream's ADA kind that builds D and the loss by their names. The
repository's own augmentation is off, in R3GAN with its schedule, and so are DeceiveD's pseudo augmentation, which
would show D fakes as reals, and its ``--with-dataaug``.
"""

from typing import Any

import click
import torch
from torch import Tensor, nn

from ..adaptive_t import AdaptiveT
from ..diffaugment import DiffAugment
from ..diffusion_noise import DiffusionNoise
from ..scale_shift import first_layer
from ..wrapping import wrap
from . import resuming, train_options
from .inside_d import adapt_in_loss, check_snapshot, controller
from .snapshot_parts import construct, full_name
from .train_options import Host, Regularizers, refuse, require

_HOST = Host(
    "the repository's augmentation",
    noise={"uniform": "new_data", "priority": "stylegan2"},
    modes=("none", "diffaug", "diffusion", "diffaug+diffusion"),
    spider=False,
)

options = train_options.options(_HOST)


def configure(c: Any, desc: str) -> str:
    """Put what the options ``--reg...`` ask for into upstream's configuration.

    Args:
        c: the keyword arguments of upstream's training_loop, changed in place.
        desc: the name of the run.

    Returns:
        The name of the run with the regularizers in it.

    Raises:
        click.UsageError: options that make no sense together, or not with the snapshot of ``--resume``.
    """
    regularizers = train_options.resolve(_HOST, c.random_seed)
    snapshot = resuming.load(c)
    resuming.check(c, snapshot)
    told = _told(c, regularizers, snapshot)
    if regularizers is None:
        return desc
    require("D_kwargs", "loss_kwargs")
    c.pop("augment_kwargs", None)
    for name in ("apa_target", "augment_p", "with_dataaug"):  # of DeceiveD
        c.pop(name, None)
    c.D_kwargs.update(
        class_name=full_name(discriminator),
        base=c.D_kwargs.class_name,
        diffaug=regularizers.diffaug,
        noise=regularizers.noise,
        told=told,
    )
    if regularizers.noise is not None:
        c.D_kwargs.controller = controller(c, regularizers)
        adapt_in_loss(c)
        if snapshot is not None:
            check_snapshot(c.resume_pkl, snapshot["D"], regularizers.noise)
    return desc + regularizers.desc


def discriminator(
    base: str,
    c_dim: int,
    img_resolution: int,
    diffaug: dict[str, Any] | None = None,
    noise: dict[str, Any] | None = None,
    told: str = "none",
    controller: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Upstream's discriminator behind the regularizers, with the state of the noise in it for its snapshots.

    Args:
        base: name of upstream's class.
        c_dim: length of a label.
        img_resolution: side of an image.
        diffaug: settings of DiffAugment.
        noise: settings of DiffusionNoise.
        told: ``t``, by scaling and shifting what D's first layer returns, or ``none``.
        controller: settings of AdaptiveT.
        kwargs: of upstream's class.
    """
    D = construct({"class_name": base, "c_dim": c_dim, "img_resolution": img_resolution, **kwargs})
    diffuse = DiffusionNoise(**noise) if noise is not None else None
    augment = DiffAugment(**diffaug) if diffaug is not None else None
    if told == "none":
        wrap(D, augment, diffuse, tell="nothing")
    else:
        image = torch.zeros(1, kwargs.get("img_channels", 3), img_resolution, img_resolution)
        wrap(D, augment, diffuse, tell=_first_that_runs(D, image, torch.zeros(1, c_dim)))
    if diffuse is not None:
        D.adaptive_t = AdaptiveT(diffuse, **controller)
        D.adaptive_t.r_d.zero_()  # R3GAN compares its ranks' buffers at a snapshot, and NaN is not equal to itself
    return D


def _first_that_runs(D: nn.Module, image: Tensor, c: Tensor) -> str:
    """The name of D's first layer, or of the first module around it that is called.

    R3GAN's first layer only holds a weight, which the module around it uses.
    """
    first, ran = first_layer(D), []
    parts = first.split(".")
    names = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    handles = [D.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in names]
    with torch.no_grad():
        D(image, c)
    for handle in handles:
        handle.remove()
    if not ran:
        raise RuntimeError(f"{type(D).__name__} runs without {first}, so it cannot be told t; use --reg-condition=none")
    return ran[0]


def _told(c: Any, regularizers: Regularizers | None, snapshot: dict[str, Any] | None) -> str:
    """What D is told of t; a snapshot's D goes on as it was, since its optimiser has as many parameters."""
    noisy = regularizers is not None and regularizers.noise is not None
    asked = regularizers.condition if noisy else None
    if asked == "t-raw":
        refuse("condition", asked, "is not possible: this D has no input that t could enter; use t")
    if snapshot is None:
        return (asked or "t") if noisy else "none"
    told = "t" if any("scale_shift" in name for name, _ in snapshot["D"].named_parameters()) else "none"
    if asked not in (None, told):
        refuse("condition", asked, f"does not fit {c.resume_pkl}, whose D was trained with --reg-condition={told}")
    if told != "none" and not noisy:
        raise click.UsageError(f"the D of {c.resume_pkl} is told t of a noise; --reg needs diffusion")
    if told == "none" and asked is None and noisy:
        print(f"The D of {c.resume_pkl} was not told t, and is not told it now")
    return told
