"""R3GAN, DeceiveD and what is built like them: the regularizers before D, and AdaptiveT in the loss.

For a training loop without a controller of upstream's ADA kind that builds D and the loss by their names. The
repository's own augmentation is off, in R3GAN with its schedule, and so are DeceiveD's pseudo augmentation, which
would show D fakes as reals, and its ``--with-dataaug``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..adaptive_t import AdaptiveT
from ..diffaugment import DiffAugment
from ..diffusion_noise import DiffusionNoise
from ..hooks.scale_shift import first_layer
from ..wrapping import wrap
from . import resuming, train_options
from .inside_d import put_into_d
from .snapshot_parts import construct
from .train_options import Host, refuse

_HOST = Host(
    "the repository's augmentation",
    noise={"uniform": "new_data", "priority": "stylegan2"},
    modes=("none", "diffaug", "diffusion", "diffaug+diffusion"),
    spider=False,
)

options = train_options.options(_HOST)


def configure(c: Any, desc: str) -> str:
    """``stylegan.configure`` for such a training loop; G is fed nothing but z."""
    regularizers = train_options.resolve(_HOST, c.random_seed)
    snapshot = resuming.load(c)
    resuming.check(c, snapshot)
    if regularizers is not None and regularizers.condition == "t-raw":
        refuse("condition", "t-raw", "is not possible: this D has no input that t could enter; use t")
    told = resuming.told(c, regularizers, _told(snapshot["D"]) if snapshot is not None else None)
    if regularizers is None:
        return desc
    for name in ("augment_kwargs", "augment_p", "apa_target", "with_dataaug"):  # its own, in DeceiveD the last two
        c.pop(name, None)
    put_into_d(c, regularizers, snapshot, discriminator, told=told)
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


def _told(D: nn.Module) -> str:
    """What the D of a snapshot is told of t."""
    return "t" if any("scale_shift" in name for name, _ in D.named_parameters()) else "none"
