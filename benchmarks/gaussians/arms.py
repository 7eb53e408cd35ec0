"""What is compared: an arm is a name for the noise before D, its control, and what D is told of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

STEPS = 500  # T_max of every chain
SIGMA = 0.5
SLOW_BETA = 1e-4  # constant over the chain: the gain is 0.975 at its end


@dataclass(frozen=True)
class Arm:
    """The noise of an arm.

    Attributes:
        noise: settings of DiffusionNoise; None for no chain.
        fixed_std: standard deviation of fixed noise, where there is no chain.
        unit_gain: put 1 in place of the chain's gain, and leave its noise as it is.
        target: of AdaptiveT; None for p = 1 throughout.
        tell: what D is told of t: ``raw``, t / T_max; ``embedding``; ``nothing``.
    """

    noise: Mapping[str, Any] | None = field(default_factory=lambda: {"noise_std": SIGMA})
    fixed_std: float = 0.0
    unit_gain: bool = False
    target: float | None = 0.0
    tell: str = "raw"


# Five factors, each with its level of the diffusion arm and another.
FACTORS = {
    "all-noisy": "clean share 0",
    "gain-1": "gain 1",
    "p-1": "p = 1 throughout",
    "paper": "parity paper",
    "untold": "D untold",
}


def changed(*factors: str) -> Arm:
    """The diffusion arm, but for these factors."""
    noise = {"noise_std": SIGMA}
    noise |= {"clean_share": 0.0} if "all-noisy" in factors else {}
    noise |= {"parity": "paper"} if "paper" in factors else {}
    return Arm(
        noise,
        unit_gain="gain-1" in factors,
        target=None if "p-1" in factors else 0.0,
        tell="nothing" if "untold" in factors else "raw",
    )


def slow(std: float, clean_share: float = 0.5) -> Arm:
    """A chain that hardly shrinks the signal, with this standard deviation of the noise at its end."""
    end = math.sqrt(1.0 - (1.0 - SLOW_BETA) ** STEPS)
    settings = {"schedule": "constant", "beta_end": SLOW_BETA, "noise_std": round(std / end, 3)}
    return Arm(settings | {"clean_share": clean_share})


_combinations = [[f for f, on in zip(FACTORS, levels, strict=True) if on] for levels in product((0, 1), repeat=5)]
CELLS = {"+".join(factors) or "diffusion": factors for factors in _combinations}
DESIGN = tuple(name for name, factors in CELLS.items() if len(factors) % 2 == 0)  # a half fraction, resolution V

ARMS: dict[str, Arm] = {
    "vanilla": Arm(None),
    "fixed noise": Arm(None, fixed_std=0.3),
    **{name: changed(*factors) for name, factors in CELLS.items()},
    "target-0.6": Arm(target=0.6),
    "embedding": Arm(tell="embedding"),
    **{f"slow-{std}": slow(std) for std in (0.3, 0.5, 0.7)},
    **{f"slow-{std}+all-noisy": slow(std, 0.0) for std in (0.3, 0.5, 0.7)},
}
EXISTING = tuple(name for name in ARMS if name.startswith("slow"))
GROUPS = {
    "design": DESIGN,
    "beside": ("vanilla", "fixed noise", "target-0.6", "embedding"),
    "existing": EXISTING,
}
