"""The settings of the demo and their defaults, apart from what it takes to run it."""

from dataclasses import dataclass

ARMS = ("unregularised", "regularised")
RESOLUTIONS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Settings:
    """What a run is made of; on one machine, runs with equal settings give equal numbers on the CPU."""

    resolution: int = 32
    kimg: float = 40.0
    policy: str = "color,translation"
    noise_std: float = 0.05
    target: float = 0.2
    seed: int = 0
    device: str = "cpu"
    data: str | None = None
