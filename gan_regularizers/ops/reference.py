"""The operator in plain PyTorch: the specification, the fallback and the oracle of every test.

    y = gain * mask . shift( k s (x - mu_pixel) + k (mu_pixel - mu) + mu + b ) + noise_std * noise

Brightness b, saturation s and contrast k, applied in this order, collapse to the bracket because saturation keeps the
channel mean mu_pixel of every pixel, hence the sample mean mu (docs/operator.md has the derivation). Plain PyTorch
operations make it differentiable any number of times.

Where the range of values has another centre than 0, this is what happens to x - centre, and the centre is added again.
The bracket keeps its form then. Where not all channels are picture, colour, gain and noise are for those that are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .params import TransformParams, arithmetic_dtype, memory_format


def input_transform(x: Tensor, params: TransformParams, noise: Tensor | None = None) -> Tensor:
    """Transform a batch [N, C, H, W] with explicit parameters and explicit noise.

    Args:
        x: float16, bfloat16, float32 or float64 [N, C, H, W].
        params: one value per sample of each part; a part that is None is left out.
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


def draw(
    words: Tensor, ranges: Sequence[tuple[float, float]], integers: Sequence[tuple[int, int, int]]
) -> tuple[Tensor, Tensor]:
    """Real and whole random numbers for N samples from random words.

    The top 24 bits of a word are a uniform u in [0, 1).

    Args:
        words: int64 [R, N].
        ranges: (low, high) of each real number; number i comes from row i of the words.
        integers: (row, count, offset) of each whole number, uniform over offset .. offset + count - 1.

    Returns:
        The reals, float32 [len(ranges), N], and the whole numbers, int64 [N, len(integers)].
    """
    uniform = (words >> 40 & 0xFFFFFF).float() * 2.0**-24
    reals = uniform.new_empty((len(ranges), words.shape[1]))
    for i, (low, high) in enumerate(ranges):
        reals[i] = uniform[i] * (high - low) + low
    whole = words.new_empty((words.shape[1], len(integers)))
    for i, (row, count, offset) in enumerate(integers):
        # No product of a float below 1 and a small integer rounds up to that integer, so the result stays below count.
        whole[:, i] = (uniform[row] * count).long() + offset
    return reals, whole


def look_up(
    words: Tensor, t: Tensor | None, t_list: Tensor, gain: Tensor, noise_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps t, given or drawn from a list by the words' lowest bits, and the two tables at t.

    Args:
        words: int64 of any shape; not read where t is given.
        t: int64 of the words' shape, in [0, len(gain)).
        t_list: int64 [a power of two].
        gain: float32 [steps + 1].
        noise_scale: float32 [steps + 1].

    Returns:
        t, gain and noise scale, all of the words' shape.
    """
    if t is None:
        t = t_list[words & len(t_list) - 1]
    return t, *(table.index_select(0, t.flatten()).view(t.shape) for table in (gain, noise_scale))


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
    return value.to(like.dtype)[:, None, None, None]


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
    for dim in (2, 3):
        size = x.shape[dim]
        source = torch.arange(size, device=x.device) - shift[:, dim - 2, None]
        outside = (source < 0) | (source >= size)
        shape = [x.shape[0], 1, 1, 1]
        shape[dim] = size
        x = x.gather(dim, (source % max(size, 1)).view(shape).expand_as(x)).masked_fill(outside.view(shape), fill)
    return x


def _inside_box(box: Tensor, height: int, width: int) -> Tensor:
    top, bottom, left, right = (edge[:, None] for edge in box.unbind(1))
    row = torch.arange(height, device=box.device)
    column = torch.arange(width, device=box.device)
    rows = (row >= top) & (row < bottom)
    columns = (column >= left) & (column < right)
    return rows[:, None, :, None] & columns[:, None, None, :]
