"""The regularizers step by step, as their papers state them, in plain eager PyTorch.

It is the oracle of the closed form and the baseline of the benchmark. Every step takes its random parameters as
arguments, one per sample, and computes in the dtype of x. ``draw`` makes them as the official training loops do.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion_noise import T_LIST_SIZE, DiffusionNoise
from ...ops import TransformParams


class Draw(NamedTuple):
    """What ``official_sequence`` takes beside the images."""

    params: TransformParams
    noise: Tensor | None
    cutout_size: tuple[int, int] | None


def draw(x: Tensor, policy: str, noise: DiffusionNoise | None) -> Draw:
    """Draw every random number of a step in x's dtype and on its device, without a wait for it.

    The policy's names stand in the order of the sequence. The ranges are those of the official file; a shift is up to
    an eighth of the image and a box half of it. Of the module ``noise`` only the tables are read, and ``per_channel``.
    """
    height, width = x.shape[2:]
    parts = policy.split(",")
    drawn: dict[str, Tensor] = {}
    cutout_size = None
    if "color" in parts:
        drawn["brightness"] = _uniform(x) - 0.5
        drawn["saturation"] = _uniform(x) * 2
        drawn["contrast"] = _uniform(x) + 0.5
    if "translation" in parts:
        down, right = (_integers(-edge, edge, x) for edge in (_share(height, 0.125), _share(width, 0.125)))
        drawn["shift"] = torch.stack([down, right], 1)
    if "cutout" in parts:
        cutout_size = tall, wide = _share(height, 0.5), _share(width, 0.5)
        top = _integers(0, height - tall % 2, x) - tall // 2
        left = _integers(0, width - wide % 2, x) - wide // 2
        drawn["cutout"] = torch.stack([top, top + tall, left, left + wide], 1)
    normals = None
    if noise is not None:
        t = noise.t_list[torch.randint(T_LIST_SIZE, x.shape[: 1 + noise.per_channel], device=x.device)]
        drawn["gain"], drawn["noise_std"] = noise.gain[t], noise.noise_scale[t]
        normals = torch.randn_like(x)
    return Draw(TransformParams(**drawn), normals, cutout_size)


def official_sequence(
    x: Tensor, params: TransformParams, noise: Tensor | None = None, cutout_size: tuple[int, int] | None = None
) -> Tensor:
    """Colour, translation, cutout and diffusion, one after the other; a part that is None is left out.

    Args:
        x: images [N, C, H, W].
        params: one value per sample of each part; every cutout box has ``cutout_size``. Those of the noise may be of
            each sample and channel, [N, C].
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


def _uniform(like: Tensor) -> Tensor:
    return torch.rand(len(like), dtype=like.dtype, device=like.device)


def _integers(low: int, high: int, like: Tensor) -> Tensor:
    return torch.randint(low, high + 1, (len(like),), device=like.device)


def _share(size: int, share: float) -> int:
    return int(size * share + 0.5)


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype)[(..., *[None] * (like.dim() - value.dim()))]


def _arange(stop: int, like: Tensor) -> Tensor:
    return torch.arange(stop, device=like.device)
