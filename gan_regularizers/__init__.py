"""Regularise the input of any GAN's discriminator."""

from .io import interrupt  # noqa: F401  before torch, which takes long to load

# isort: split
from .adaptive_t import AdaptiveT, StatisticWarning
from .diffaugment import DiffAugment
from .diffusion_noise import DiffusionNoise, timestep_embedding
from .hooks.hook import WrapWarning
from .ops import BackendWarning, use_backend
from .regularizer import InputRegularizer
from .wrapping import regularizer_of, same_draw, unwrap, wrap

__version__ = "0.1.0"

__all__ = [
    "AdaptiveT",
    "BackendWarning",
    "DiffAugment",
    "DiffusionNoise",
    "InputRegularizer",
    "StatisticWarning",
    "WrapWarning",
    "regularizer_of",
    "same_draw",
    "timestep_embedding",
    "unwrap",
    "use_backend",
    "wrap",
]
