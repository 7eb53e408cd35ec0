"""A small DCGAN (Radford et al., 2016) for square images of 16 pixels and more."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import timestep_embedding

LATENT_DIM = 64
EMBEDDING_DIM = 64
BASE_CHANNELS = 32
MAX_CHANNELS = 128


def _channels(resolution: int, width: int = 1) -> list[int]:
    """Channels of the feature maps from half the resolution down to 4 x 4: they double as the side halves."""
    return [width * min(BASE_CHANNELS << i, MAX_CHANNELS) for i in range(int(math.log2(resolution)) - 2)]


class Generator(nn.Module):
    """z [N, 64] -> images [N, 3, R, R] in (-1, 1)."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        channels = _channels(resolution)[::-1]
        self.stem = nn.Linear(LATENT_DIM, channels[0] * 16)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(width, next_width, 4, stride=2, padding=1)
            for width, next_width in zip(channels, [*channels[1:], 3], strict=True)
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem(z).unflatten(1, (-1, 4, 4))
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = up(F.leaky_relu(norm(x), 0.2))
        return torch.tanh(x)


class Discriminator(nn.Module):
    """Images [N, 3, R, R] and their steps t [N] (0 where none are given) -> logits [N, 1]."""

    def __init__(self, resolution: int, width: int = 1) -> None:
        super().__init__()
        self.channels = _channels(resolution, width)
        self.downs = nn.ModuleList(
            nn.Conv2d(width, next_width, 4, stride=2, padding=1)
            for width, next_width in zip([3, *self.channels[:-1]], self.channels, strict=True)
        )
        self.modulation = nn.Linear(EMBEDDING_DIM, 2 * sum(self.channels))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.logit = nn.Linear(self.channels[-1] * 16, 1)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        t = x.new_zeros(len(x)) if t is None else t
        modulation = self.modulation(timestep_embedding(t, EMBEDDING_DIM))[:, :, None, None]
        for down, part in zip(self.downs, modulation.split([2 * width for width in self.channels], 1), strict=True):
            scale, offset = part.chunk(2, dim=1)
            x = F.leaky_relu(down(x) * (1 + scale) + offset, 0.2)
        return self.logit(x.flatten(1))
