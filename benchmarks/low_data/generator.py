"""A small convolutional generator whose images are smooth: it enlarges feature maps bilinearly."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_regularizers.commands.demo.networks import LATENT_DIM

BASE_CHANNELS = 128


class Generator(nn.Module):
    """z [N, 64] -> images [N, 3, R, R] in (-1, 1); channels halve as the side doubles, from width * 128 at 4 x 4."""

    def __init__(self, resolution: int, width: int = 1) -> None:
        super().__init__()
        channels = [width * max(BASE_CHANNELS * 4 // side, 8) for side in _sides(resolution)]
        self.stem = nn.Linear(LATENT_DIM, channels[0] * 16)
        self.norms = nn.ModuleList(map(nn.BatchNorm2d, channels))
        self.convs = nn.ModuleList(nn.Conv2d(width, after, 3, padding=1) for width, after in pairwise([*channels, 3]))

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem(z).unflatten(1, (-1, 4, 4))
        *ups, rgb = zip(self.norms, self.convs, strict=True)
        for norm, conv in ups:
            x = conv(F.interpolate(F.leaky_relu(norm(x), 0.2), scale_factor=2, mode="bilinear"))
        norm, conv = rgb
        return torch.tanh(conv(F.leaky_relu(norm(x), 0.2)))


def _sides(resolution: int) -> list[int]:
    return [4 << i for i in range(resolution.bit_length() - 2)]
