"""What is compared: an arm is a name for what stands before D."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from projected import Projected
from raw_t import RawT
from torch import Tensor, nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, InputRegularizer, wrap
from gan_regularizers.commands.demo.networks import Discriminator
from gan_regularizers.diffusion_noise import PRESETS

R1_GAMMA = 0.1
ADAPT_KIMG = 20.0  # the runs are short; with the official code's 100, T would stay low in all of them

# How D is told t, as ``wrap`` takes it: "t" and "t-raw" by a D that is built for it; "raw-0": one that is built for the
# latter is told nothing.
TELL = {
    "t": {"t_argument": "t"},
    "t-raw": {"t_argument": "t"},
    "scale-shift": {"tell": "scale-shift"},
    "raw-0": {"tell": "nothing"},
    "nothing": {"tell": "nothing"},
}


@dataclass(frozen=True)
class Arm:
    """The regularizers of an arm.

    Attributes:
        policy: of DiffAugment; empty for none.
        cutout: its box's side, as a share of the image's.
        noise: settings of DiffusionNoise; None for no noise.
        target: of AdaptiveT.
        told: how D is told t, a key of TELL.
        instance_noise: standard deviation of noise that stays the same; 0 for none.
        r1: gamma of R1, the penalty on D's gradient; 0 for none.
        projected: whether D is ProjectedGAN's, trained by the hinge loss.
        on_maps: whether the noise lies on its feature maps before their mixing rather than on the pixels.
    """

    policy: str = ""
    cutout: float = 0.5
    noise: Mapping[str, Any] | None = None
    target: float = 0.6
    told: str = "t"
    instance_noise: float = 0.0
    r1: float = R1_GAMMA
    projected: bool = False
    on_maps: bool = False

    def discriminator(self, resolution: int, width: int = 1) -> nn.Module:
        """The D that the arm is for; ProjectedGAN's has one size and one width."""
        if self.projected:
            return Projected()
        return (RawT if self.told in ("t-raw", "raw-0") else Discriminator)(resolution, width)

    def regularize(self, D: nn.Module) -> AdaptiveT | None:
        """Put the regularizers before D, none of them too, and return the controller of the noise."""
        augment = DiffAugment(self.policy, cutout=self.cutout) if self.policy else None
        noise = None if self.noise is None else DiffusionNoise(**self.noise)
        fixed = self._add_noise if self.instance_noise else None
        if self.on_maps:
            D.noise = noise
        on_pixels = None if self.on_maps else noise
        wrap(D, InputRegularizer(augment, on_pixels, fixed), **TELL[self.told])
        return None if noise is None else AdaptiveT(noise, target=self.target, kimg=ADAPT_KIMG)

    def _add_noise(self, x: Tensor) -> Tensor:
        return x + self.instance_noise * torch.randn_like(x)


PROJECTED = Arm(told="nothing", r1=0.0, projected=True)  # which knows nothing of t
ALL = "color,translation,cutout"
ARMS = {
    # The regularizers with the settings that the papers advise for few images and for a new data set.
    "none": Arm(),
    "diffaug": Arm(ALL),
    "diffusion": Arm(noise={}),
    "diffaug+diffusion": Arm(ALL, noise={}),
    # One setting changed.
    "cutout-0.2": Arm(ALL, cutout=0.2),
    "no-cutout": Arm("color,translation"),
    "target-0.4": Arm(noise={}, target=0.4),
    "target-0.8": Arm(noise={}, target=0.8),
    "priority": Arm(noise={"distribution": "priority"}),
    "paper": Arm(noise={"parity": "paper"}),
    "untold": Arm(noise={}, told="nothing"),
    "noise-0.2": Arm(noise={"noise_std": 0.2}),
    "all-noisy": Arm(noise={"clean_share": 0.0}),
    **{f"both-target-{target}": Arm(ALL, noise={}, target=target) for target in (0.1, 0.2, 0.3, 0.4, 0.5)},
    # How D is told t: by the layer that wrap adds, and by the number itself.
    "scale-shift": Arm(noise={}, told="scale-shift"),
    "t-raw": Arm(noise={}, told="t-raw"),
    "t-raw-0": Arm(noise={}, told="raw-0"),
    # Without a penalty on D's gradient.
    "bare": Arm(r1=0.0),
    "bare+fixed-0.1": Arm(instance_noise=0.1, r1=0.0),
    "bare+fixed-0.3": Arm(instance_noise=0.3, r1=0.0),
    "bare+diffusion": Arm(noise={}, r1=0.0),
    "bare+diffaug": Arm(ALL, r1=0.0),
    # With features of a pretrained network, and the settings of the official code for these.
    "projected": PROJECTED,
    "projected+diffaug": replace(PROJECTED, policy=ALL),
    "projected+diffusion": replace(PROJECTED, noise=PRESETS["projected_gan"], on_maps=True),
    "projected+both": replace(PROJECTED, policy=ALL, noise=PRESETS["projected_gan"], on_maps=True),
    "projected+pixels": replace(PROJECTED, noise={}),
}
MAIN = tuple(ARMS)[:4]
PROJECTED_ARMS = tuple(arm for arm in ARMS if ARMS[arm].projected)
