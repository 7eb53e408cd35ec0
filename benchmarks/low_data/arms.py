"""What is compared: an arm is a name for what stands before D."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from raw_t import RawT
from torch import Tensor, nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, InputRegularizer, wrap
from gan_regularizers.commands.demo.networks import Discriminator

R1_GAMMA = 0.1
ADAPT_KIMG = 20.0  # the runs are short; with the official code's 100, T would stay low in all of them

# How D is told t, as ``wrap`` takes it: "t" and "t-raw" by a D that is built for it.
TELL = {
    "t": {"t_argument": "t"},
    "t-raw": {"t_argument": "t"},
    "scale-shift": {"tell": "scale-shift"},
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
    """

    policy: str = ""
    cutout: float = 0.5
    noise: Mapping[str, Any] | None = None
    target: float = 0.6
    told: str = "t"
    instance_noise: float = 0.0
    r1: float = R1_GAMMA

    def discriminator(self, resolution: int) -> nn.Module:
        """The D that the arm is for."""
        return (RawT if self.told == "t-raw" else Discriminator)(resolution)

    def regularize(self, D: nn.Module) -> AdaptiveT | None:
        """Put the regularizers before D, none of them too, and return the controller of the noise."""
        augment = DiffAugment(self.policy, cutout=self.cutout) if self.policy else None
        noise = None if self.noise is None else DiffusionNoise(**self.noise)
        fixed = self._add_noise if self.instance_noise else None
        wrap(D, InputRegularizer(augment, noise, fixed), **TELL[self.told])
        return None if noise is None else AdaptiveT(noise, target=self.target, kimg=ADAPT_KIMG)

    def _add_noise(self, x: Tensor) -> Tensor:
        return x + self.instance_noise * torch.randn_like(x)


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
    # Without a penalty on D's gradient.
    "bare": Arm(r1=0.0),
    "bare+fixed-0.1": Arm(instance_noise=0.1, r1=0.0),
    "bare+fixed-0.3": Arm(instance_noise=0.3, r1=0.0),
    "bare+diffusion": Arm(noise={}, r1=0.0),
    "bare+diffaug": Arm(ALL, r1=0.0),
}
MAIN = tuple(ARMS)[:4]
