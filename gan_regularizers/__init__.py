"""Regularise the input of any GAN's discriminator."""

from .adaptive_t import AdaptiveT, StatisticWarning
from .diffaugment import DiffAugment
from .diffusion_noise import DiffusionNoise, timestep_embedding
from .ops import BackendWarning, use_backend
from .regularizer import InputRegularizer, RegularizedDiscriminator, wrap

__version__ = "0.1.0"

__all__ = [
    "AdaptiveT",
    "BackendWarning",
    "DiffAugment",
    "DiffusionNoise",
    "InputRegularizer",
    "RegularizedDiscriminator",
    "StatisticWarning",
    "timestep_embedding",
    "use_backend",
    "wrap",
]
