"""ProjectedGAN and what has its D: the regularizers inside D, on images or feature maps, and AdaptiveT in the loss.

StyleGAN-XL's D has several feature networks, whose feature maps are all treated alike; Diffusion-ProjectedGAN's has a
diffusion of its own, which an inert one takes the place of under every ``--reg``.
"""

from typing import Any

import click
from torch import nn

from ..adaptive_t import AdaptiveT
from ..diffaugment import DiffAugment
from ..diffusion_noise import DiffusionNoise
from ..wrapping import wrap
from . import resuming, spider, train_options
from .inside_d import put_into_d
from .snapshot_parts import NoDiffusion, ThroughEach, ThroughFirst, add_hook, construct
from .train_options import Host, accepted_arguments, refuse

_HOST = Host(
    "the repository's DiffAugment",
    noise={"uniform": "new_data", "priority": "new_data"},
    features="projected_gan",
    diffaug="projected_gan",
    diffaug_and_noise="projected_gan",
    modes=("none", "diffaug", "diffusion", "diffaug+diffusion"),
    conditions="none",
)

options = train_options.options(_HOST)


def configure(c: Any, desc: str) -> str:
    """``stylegan.configure`` for ProjectedGAN, whose noise may be on feature maps."""
    size = c.training_set_kwargs.resolution
    fastgan = ".networks_fastgan." in c.G_kwargs.class_name
    if fastgan and size < 128 and "target" not in accepted_arguments():  # Diffusion-ProjectedGAN's begins lower
        raise click.UsageError(f"FastGAN's G begins at 128 pixels, these images have {size}; use another --cfg")
    regularizers = train_options.resolve(_HOST, c.random_seed)
    snapshot = resuming.load(c)
    resuming.check(c, snapshot)
    desc = spider.configure(c, desc, snapshot)
    if regularizers is None:
        return desc
    if regularizers.condition not in (None, "none"):
        refuse("condition", regularizers.condition, "is not possible: ProjectedGAN's D has no input that t could enter")
    put_into_d(c, regularizers, snapshot, discriminator, where=regularizers.where)
    return desc + regularizers.desc


def discriminator(
    base: str,
    diffaug: dict[str, Any] | None = None,
    noise: dict[str, Any] | None = None,
    where: str = "pixels",
    controller: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Upstream's discriminator with the regularizers inside, so that its snapshots hold their state.

    Args:
        base: name of upstream's class.
        diffaug: settings of DiffAugment, which takes the place of upstream's own.
        noise: settings of DiffusionNoise.
        where: the noise on ``pixels``, or on all feature maps before (``first``) or after (``last``) their mixing.
        controller: settings of AdaptiveT.
        kwargs: of upstream's class.
    """
    D = construct({"class_name": base, **kwargs, "diffaug": False})
    networks = D.feature_networks.values() if hasattr(D, "feature_networks") else [D.feature_network]
    augment = DiffAugment(**diffaug) if diffaug is not None else None
    diffuse = DiffusionNoise(**noise) if noise is not None else None
    if diffuse is not None:
        D.adaptive_t = AdaptiveT(diffuse, **controller)  # first: so its buffers have one name, wherever the noise goes
    for network in networks:
        if hasattr(network, "diffusion"):
            network.diffusion = NoDiffusion(diffuse)
        if diffuse is not None and where != "pixels":
            _diffuse_features(network, diffuse, where)
    on_pixels = diffuse if where == "pixels" else None
    if augment is not None or on_pixels is not None:
        wrap(D, augment, on_pixels, tell="nothing")
    return D


def _diffuse_features(network: nn.Module, diffuse: DiffusionNoise, where: str) -> None:
    """Put the noise before the layers that mix channels, or after all; a network that does not mix has one place."""
    if where == "first" and network.scratch is not None:
        for i in range(4):
            add_hook(getattr(network.scratch, f"layer{i}_ccm")._forward_pre_hooks, ThroughFirst(diffuse))
    else:
        add_hook(network._forward_hooks, ThroughEach(diffuse))
