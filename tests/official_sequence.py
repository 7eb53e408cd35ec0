"""The regularizers step by step, as their papers state them, in plain eager PyTorch.

It is the oracle of the closed form and the baseline of the benchmark. Every step takes its random parameters as
arguments, one per sample, and computes in the dtype of x.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_regularizers.ops import TransformParams


def official_sequence(
    x: Tensor, params: TransformParams, noise: Tensor | None = None, cutout_size: tuple[int, int] | None = None
) -> Tensor:
    """Colour, translation, cutout and diffusion, one after the other; a part that is None is left out.

    Args:
        x: images [N, C, H, W].
        params: one value per sample of each part; every cutout box has ``cutout_size``.
        noise: standard normals of x's shape, where ``params.noise_std`` is given.
        cutout_size: height and width of the boxes, where ``params.cutout`` is given.
    """
    if params.brightness is not None:
        x = brightness(x, params.brightness)
    if params.saturation is not None:
        x = saturation(x, params.saturation)
    if params.contrast is not None:
        x = contrast(x, params.contrast)
    if params.shift is not None:
        x = translation(x, params.shift)
    if params.cutout is not None:
        x = cutout(x, params.cutout[:, ::2], cutout_size)
    if params.gain is not None:
        x = _per_sample(params.gain, x) * x
    if params.noise_std is not None:
        x = x + _per_sample(params.noise_std, x) * noise
    return x


def brightness(x: Tensor, offset: Tensor) -> Tensor:
    return x + _per_sample(offset, x)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale every pixel about its mean over the channels."""
    mean = x.mean(dim=1, keepdim=True)
    return mean + _per_sample(factor, x) * (x - mean)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale every sample about its mean."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + _per_sample(factor, x) * (x - mean)


def translation(x: Tensor, shift: Tensor) -> Tensor:
    """Move every sample by shift [N, 2], rows down and columns right.

    A border of one zero pixel is put around the image; whatever is read from beyond the image is read from there.
    """
    height, width = x.shape[2:]
    rows = _arange(height, x) + 1 - shift[:, :1]
    columns = _arange(width, x) + 1 - shift[:, 1:]
    rows, columns = rows.clamp(0, height + 1), columns.clamp(0, width + 1)
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    sample = _arange(len(x), x)[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor, corner: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero a box whose first row and column are corner [N, 2]; what overhangs is clamped into the image."""
    height, width = x.shape[2:]
    rows = (_arange(size[0], x) + corner[:, :1]).clamp(0, height - 1)
    columns = (_arange(size[1], x) + corner[:, 1:]).clamp(0, width - 1)
    mask = x.new_ones(len(x), height, width)
    mask[_arange(len(x), x)[:, None, None], rows[:, :, None], columns[:, None, :]] = 0
    return x * mask[:, None]


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype).view(-1, 1, 1, 1)


def _arange(stop: int, like: Tensor) -> Tensor:
    return torch.arange(stop, device=like.device)
