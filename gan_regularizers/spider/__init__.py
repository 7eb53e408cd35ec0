"""Spider GAN (arXiv 2305.07613): friendly neighbours, and generators that images of them are fed to."""

from .cascade import Cascade
from .distance import SIDCurve, signed_inception_distance
from .image_latents import ImageLatents
from .neighbours import Neighbour, friendly_neighbours

__all__ = [
    "Cascade",
    "ImageLatents",
    "Neighbour",
    "SIDCurve",
    "friendly_neighbours",
    "signed_inception_distance",
]
