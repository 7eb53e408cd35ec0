"""What is compared: an arm is a name for what stands before D."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, InputRegularizer, wrap

ADAPT_KIMG = 20.0  # the runs are short; with the official code's 100, T would stay low in all of them


@dataclass(frozen=True)
class Arm:
    """The regularizers of an arm.

    Attributes:
        policy: of DiffAugment; empty for none.
        cutout: its box's side, as a share of the image's.
        noise: settings of DiffusionNoise; None for no noise.
        target: of AdaptiveT.
        told_t: whether D is told t.
    """

    policy: str = ""
    cutout: float = 0.5
    noise: Mapping[str, Any] | None = None
    target: float = 0.6
    told_t: bool = True

    def regularize(self, D: nn.Module) -> AdaptiveT | None:
        """Put the regularizers before D, none of them too, and return the controller of the noise."""
        augment = DiffAugment(self.policy, cutout=self.cutout) if self.policy else None
        noise = None if self.noise is None else DiffusionNoise(**self.noise)
        wrap(D, InputRegularizer(augment, noise), **({"t_argument": "t"} if self.told_t else {"tell": "nothing"}))
        return None if noise is None else AdaptiveT(noise, target=self.target, kimg=ADAPT_KIMG)


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
    "untold": Arm(noise={}, told_t=False),
    "noise-0.2": Arm(noise={"noise_std": 0.2}),
    "all-noisy": Arm(noise={"clean_share": 0.0}),
    "both-target-0.2": Arm(ALL, noise={}, target=0.2),
}
MAIN = tuple(ARMS)[:4]
