"""The fused kernels as PyTorch operators, with fake kernels and autograd formulas of any order.

``torch.ops.gan_regularizers``:

- ``input_transform`` is one pass, ``input_transform_adjoint`` the transpose of its derivative. Each is the other's
  backward, so R1 and every higher order follow.
- ``draw`` and ``look_up`` turn random words into the parameters of a batch, in one launch each.

The module ``_kernels`` takes addresses and knows nothing of torch (``csrc/``).
"""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import building
from .cuda import Devices
from .params import TransformParams, arithmetic_dtype, memory_format

_DTYPE_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def _load(reason: str) -> ModuleType | str:
    """The kernels, or why they are not there."""
    if reason:
        return reason
    try:
        return importlib.import_module("gan_regularizers._kernels")
    except ImportError as error:
        return f"the kernels do not load ({error}); run: gan-regularizers build"


_kernels = _load(building.report().missing)
_unbuilt = "" if isinstance(_kernels, ModuleType) else _kernels
cuda_devices = None if _unbuilt else Devices(_kernels.cuda)


def missing(device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """Why a device, or a dtype on it, has no kernels; empty where it has."""
    device = torch.device(device)
    if device.type == "meta":
        return ""  # the fake kernels serve it
    if device.type not in ("cpu", "cuda"):
        return f"there are no kernels for devices of type {device.type!r}"
    if device.type == "cuda" and dtype == torch.float64:
        return "the CUDA kernels take float16, bfloat16 and float32, not float64"
    if _unbuilt or device.type == "cpu":
        return _unbuilt
    return cuda_devices.missing(device.index)


def input_transform(x: Tensor, params: TransformParams) -> Tensor:
    """``ops.input_transform``, for params that are checked."""
    return torch.ops.gan_regularizers.input_transform(x, *params)


def draw(
    words: Tensor, ranges: Sequence[tuple[float, float]], integers: Sequence[tuple[int, int, int]]
) -> tuple[Tensor, Tensor]:
    """``reference.draw``."""
    scale = [high - low for low, high in ranges]
    low = [low for low, _ in ranges]
    row, count, offset = ([column[i] for column in integers] for i in range(3))
    return torch.ops.gan_regularizers.draw(words, scale, low, row, count, offset)


def look_up(
    words: Tensor, t: Tensor | None, t_list: Tensor, gain: Tensor, noise_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.look_up``."""
    return torch.ops.gan_regularizers.look_up(words, t, t_list, gain, noise_scale)


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _place(x: Tensor) -> tuple[int, ...]:
    """Where a kernel for x runs: nothing more on the CPU, the device and the stream on CUDA."""
    return (x.device.index, torch.cuda.current_stream(x.device).cuda_stream) if x.is_cuda else ()


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


def _prepared(value: Tensor | None, dtype: torch.dtype, rows_may_lie_apart: bool = False) -> Tensor | None:
    """A part as the kernels read it; usually itself."""
    if value is None:
        return None
    if value.dtype != dtype:
        value = value.to(dtype)
    if value.is_contiguous() or (rows_may_lie_apart and value.stride(1) == 1):
        return value
    return value.contiguous()


def _transform(x: Tensor, adjoint: bool, params: TransformParams) -> Tensor:
    layout = memory_format(x)
    x = x.contiguous(memory_format=layout)
    y = _empty(x)
    real = arithmetic_dtype(x.dtype)
    brightness, saturation, contrast, shift, cutout, gain, noise_std, seed, centre, channels = params
    parts = (
        _prepared(brightness, real),
        _prepared(saturation, real),
        _prepared(contrast, real),
        shift := _prepared(shift, torch.int64, rows_may_lie_apart=True),
        cutout := _prepared(cutout, torch.int64, rows_may_lie_apart=True),
        _prepared(gain, real),
        _prepared(noise_std, real),
        _prepared(seed, torch.int64),
    )
    arguments = (
        _DTYPE_CODES[x.dtype],
        tuple(x.shape),
        layout == torch.channels_last,
        x.data_ptr(),
        y.data_ptr(),
        adjoint,
        tuple([_address(part) for part in parts]),
        0 if shift is None else shift.stride(0),
        0 if cutout is None else cutout.stride(0),
        (0, x.shape[1]) if channels is None else channels,
        centre,
    )
    if x.is_cuda:
        kept = []

        def workspace(floats: int) -> int:
            kept.append(x.new_empty(floats, dtype=torch.float32))
            return kept[-1].data_ptr()

        _kernels.cuda.transform(*arguments, workspace, *_place(x))
    else:
        _kernels.cpu.transform(*arguments, torch.get_num_threads())
    return y


_LINEAR = "Tensor? saturation, Tensor? contrast, Tensor? shift, Tensor? cutout, Tensor? gain"
_NOISE = "Tensor? noise_std, Tensor? seed"
_CHANNELS = "SymInt[]? channels=None"

_library = torch.library.Library("gan_regularizers", "DEF")
for _schema in (
    f"input_transform(Tensor x, Tensor? brightness, {_LINEAR}, {_NOISE}, float centre=0.0, {_CHANNELS}) -> Tensor",
    f"input_transform_adjoint(Tensor cotangent, {_LINEAR}, {_CHANNELS}) -> Tensor",
    "draw(Tensor words, float[] scale, float[] low, int[] row, SymInt[] count, SymInt[] offset) -> (Tensor, Tensor)",
    "look_up(Tensor words, Tensor? t, Tensor t_list, Tensor gain, Tensor noise_scale) -> (Tensor, Tensor, Tensor)",
):
    # A compiler must keep the order of the strides that it traced: the output takes it over.
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))


def _input_transform(x: Tensor, *params: Any) -> Tensor:
    return _transform(x, False, TransformParams(*params))


def _input_transform_adjoint(
    cotangent: Tensor,
    saturation: Tensor | None,
    contrast: Tensor | None,
    shift: Tensor | None,
    cutout: Tensor | None,
    gain: Tensor | None,
    channels: list[int] | None = None,
) -> Tensor:
    linear = TransformParams(None, saturation, contrast, shift, cutout, gain, channels=channels)
    return _transform(cotangent, True, linear)


def _draw(
    words: Tensor, scale: list[float], low: list[float], row: list[int], count: list[int], offset: list[int]
) -> tuple[Tensor, Tensor]:
    words = _prepared(words, torch.int64)
    reals, integers = _fake_draw(words, scale, low, row, count, offset)
    columns = (scale, low, row, count, offset)
    drawn = (words.data_ptr(), *words.shape, *columns, reals.data_ptr(), integers.data_ptr())
    getattr(_kernels, words.device.type).draw(*drawn, *_place(words))
    return reals, integers


def _look_up(
    words: Tensor, t: Tensor | None, t_list: Tensor, gain: Tensor, noise_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    words, t, t_list = (_prepared(value, torch.int64) for value in (words, t, t_list))
    gain, noise_scale = (_prepared(table, torch.float32) for table in (gain, noise_scale))
    outputs = _fake_look_up(words, t, t_list, gain, noise_scale)
    getattr(_kernels, words.device.type).look_up(
        words.data_ptr(),
        _address(t),
        words.numel(),
        t_list.data_ptr(),
        t_list.numel(),
        gain.data_ptr(),
        noise_scale.data_ptr(),
        gain.numel(),
        *map(_address, outputs),
        *_place(words),
    )
    return outputs


for _device in ("CPU", "CUDA"):
    for _kernel in (_input_transform, _input_transform_adjoint, _draw, _look_up):
        _library.impl(_kernel.__name__.removeprefix("_"), _kernel, _device)


@torch.library.register_fake("gan_regularizers::input_transform")
def _fake_input_transform(x: Tensor, *_: Any) -> Tensor:
    return _empty(x)


@torch.library.register_fake("gan_regularizers::input_transform_adjoint")
def _fake_input_transform_adjoint(cotangent: Tensor, *_: Any) -> Tensor:
    return _empty(cotangent)


@torch.library.register_fake("gan_regularizers::draw")
def _fake_draw(
    words: Tensor, scale: list[float], _low: list[float], row: list[int], _count: list[int], _offset: list[int]
) -> tuple[Tensor, Tensor]:
    samples = words.shape[1]
    return words.new_empty((len(scale), samples), dtype=torch.float32), words.new_empty((samples, len(row)))


@torch.library.register_fake("gan_regularizers::look_up")
def _fake_look_up(
    words: Tensor, _t: Tensor | None, _t_list: Tensor, gain: Tensor, _noise_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return gain.new_empty(words.shape, dtype=torch.int64), gain.new_empty(words.shape), gain.new_empty(words.shape)


# torch.library.register_autograd does the same as these two classes in more of the host's time, for which a small batch
# on a GPU would wait.
class _Transform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, *params: Any) -> Tensor:
        _brightness, *linear, _noise_std, _seed, _centre, ctx.channels = TransformParams(*params)
        ctx.save_for_backward(*linear)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.gan_regularizers.input_transform(x, *params)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        gradient = torch.ops.gan_regularizers.input_transform_adjoint(cotangent, *ctx.saved_tensors, ctx.channels)
        return _for_first(gradient, ctx)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cotangent: Tensor, *linear: Any) -> Tensor:
        *parts, ctx.channels = linear if len(linear) == 6 else (*linear, None)
        ctx.save_for_backward(*parts)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.gan_regularizers.input_transform_adjoint(cotangent, *linear)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        linear = TransformParams(None, *ctx.saved_tensors, channels=ctx.channels)
        return _for_first(torch.ops.gan_regularizers.input_transform(gradient, *linear), ctx)


def _for_first(gradient: Tensor, ctx: Any) -> tuple[Tensor | None, ...]:
    """A gradient for the first input and none for the others."""
    return gradient, *(None,) * (len(ctx.needs_input_grad) - 1)


_library.impl("input_transform", _Transform.apply, "Autograd")
_library.impl("input_transform_adjoint", _Adjoint.apply, "Autograd")
