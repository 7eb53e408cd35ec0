"""The operator in plain PyTorch: the specification, the fallback and the oracle of every test.

    y = gain * mask . shift( k s (x - mu_pixel) + k (mu_pixel - mu) + mu + b ) + noise_std * noise

Brightness b, saturation s and contrast k, applied in this order, collapse to the bracket because saturation keeps the
channel mean mu_pixel of every pixel, hence the sample mean mu (docs/operator.md has the derivation). Plain PyTorch
operations make it differentiable any number of times.

Where the range of values has another centre than 0, this is what happens to x - centre, and the centre is added again.
The bracket keeps its form then. Where not all channels are picture, colour, gain and noise are for those that are.
"""

import torch
from torch import Tensor

from .draws import Columns, Steps
from .params import TransformParams, arithmetic_dtype, memory_format


def input_transform(x: Tensor, params: TransformParams, noise: Tensor | None = None) -> Tensor:
    """Transform a batch [N, C, H, W] with explicit parameters and explicit noise.

    Args:
        x: float16, bfloat16, float32 or float64 [N, C, H, W].
        params: one value per sample of each part, or per channel of its noise; a part that is None is left out.
        noise: standard normals of x's shape; needed where ``params.noise_std`` is given.

    Returns:
        A tensor of x's shape, dtype and memory format. The arithmetic is in float32, for float64 in float64.
    """
    y = x.to(arithmetic_dtype(x.dtype))
    y = _with_picture(y, params, _colour(_picture(y, params), params))
    if params.shift is not None:
        y = _shift(y, params.shift, params.centre)
    if params.cutout is not None:
        y = y.masked_fill(_inside_box(params.cutout, *x.shape[2:]), params.centre)
    picture = _picture(y, params)
    if params.gain is not None:
        picture = _scale(picture, _per_sample(params.gain, y), params.centre)
    if params.noise_std is not None:
        picture = picture + _per_sample(params.noise_std, y) * _picture(noise, params)
    y = _with_picture(y, params, picture)
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


def draw(words: Tensor, columns: Columns, steps: Steps | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What one pass draws for N samples from random words, int64 [R, N], and the noise levels where there are steps.

    Returns:
        The reals, float32 [len(columns.scale), N], with steps two more rows: the tables gain and noise_scale at t. The
        whole numbers, int64 [N, len(columns.count)]. t, int64 [N], or [0] without steps.
    """
    samples = words.shape[1]
    real_row, scale, low, neutral, row, count, offset, touched_row, p = columns
    uniform = (words >> 40 & 0xFFFFFF).float() * 2.0**-24
    touched = uniform[touched_row] < p if touched_row >= 0 else None
    reals = uniform.new_empty((len(scale) + (0 if steps is None else 2), samples))
    for i in range(len(scale)):
        real = uniform[real_row[i]] * scale[i] + low[i]
        reals[i] = real if touched is None else torch.where(touched, real, neutral[i])
    whole = words.new_empty((samples, len(count)))
    for i in range(len(count)):
        # No product of a float below 1 and a small integer rounds up to that integer, so the result stays below count.
        number = (uniform[row[i]] * count[i]).long() + offset[i]
        whole[:, i] = number if touched is None else torch.where(touched, number, 0)
    if steps is None:
        return reals, whole, words.new_empty((0,))
    t = steps.t if steps.t is not None else steps.t_list[words[steps.row] & len(steps.t_list) - 1]
    reals[-2], reals[-1] = (table.index_select(0, t) for table in (steps.gain, steps.noise_scale))
    return reals, whole, t


def _picture(x: Tensor, params: TransformParams) -> Tensor:
    return x if params.channels is None else x[:, params.channels[0] : params.channels[1]]


def _with_picture(x: Tensor, params: TransformParams, picture: Tensor) -> Tensor:
    """X with another picture in its channels."""
    if params.channels is None:
        return picture
    return torch.cat([x[:, : params.channels[0]], picture, x[:, params.channels[1] :]], dim=1)


def _scale(x: Tensor, factor: Tensor, centre: float) -> Tensor:
    return x * factor if centre == 0.0 else (x - centre) * factor + centre


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A value for each sample, or for each of its channels, to multiply with."""
    value = value.to(like.dtype)
    return value[:, None, None, None] if value.dim() == 1 else value[:, :, None, None]


def _colour(x: Tensor, params: TransformParams) -> Tensor:
    if params.contrast is not None:
        contrast = _per_sample(params.contrast, x)
        sample_mean = x.mean(dim=(1, 2, 3), keepdim=True)
        offset = (1.0 - contrast) * sample_mean
    else:
        contrast, offset = 1.0, 0.0
    if params.saturation is not None:
        pixel_mean = x.mean(dim=1, keepdim=True)
        x = contrast * (_per_sample(params.saturation, x) * (x - pixel_mean) + pixel_mean) + offset
    elif params.contrast is not None:
        x = contrast * x + offset
    if params.brightness is not None:
        x = x + _per_sample(params.brightness, x)
    return x


def _shift(x: Tensor, shift: Tensor, fill: float) -> Tensor:
    # Rows and columns are read modulo the size, a permutation with no two outputs on one input, and what came around
    # the edge is then filled.
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device) - shift[:, :1]
    column = torch.arange(width, device=x.device) - shift[:, 1:]
    source = (row % max(height, 1))[:, :, None] * width + (column % max(width, 1))[:, None, :]
    outside = ((row < 0) | (row >= height))[:, :, None] | ((column < 0) | (column >= width))[:, None, :]
    pixels = x.flatten(2)
    moved = pixels.gather(2, source.flatten(1)[:, None].expand_as(pixels)).view(x.shape)
    return moved.masked_fill(outside[:, None], fill)


def _inside_box(box: Tensor, height: int, width: int) -> Tensor:
    top, bottom, left, right = (edge[:, None] for edge in box.unbind(1))
    row = torch.arange(height, device=box.device)
    column = torch.arange(width, device=box.device)
    rows = (row >= top) & (row < bottom)
    columns = (column >= left) & (column < right)
    return rows[:, None, :, None] & columns[:, None, None, :]
