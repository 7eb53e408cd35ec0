"""A small DCGAN (Radford et al., 2016) for square images of 16 pixels and more."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_DIM = 64
BASE_CHANNELS = 32
MAX_CHANNELS = 128


def _channels(resolution: int) -> list[int]:
    """Channels of the feature maps from half the resolution down to 4 x 4: they double as the side halves."""
    return [min(BASE_CHANNELS << i, MAX_CHANNELS) for i in range(int(math.log2(resolution)) - 2)]


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
    """Images [N, 3, R, R] -> logits [N, 1]."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        channels = _channels(resolution)
        self.downs = nn.ModuleList(
            nn.Conv2d(width, next_width, 4, stride=2, padding=1)
            for width, next_width in zip([3, *channels], channels, strict=False)
        )
        self.logit = nn.Linear(channels[-1] * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        for down in self.downs:
            x = F.leaky_relu(down(x), 0.2)
        return self.logit(x.flatten(1))
