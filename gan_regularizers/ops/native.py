"""The fused kernels as PyTorch operators, with fake kernels and autograd formulas of any order.

``torch.ops.gan_regularizers``:

- ``input_transform`` is one pass, ``input_transform_adjoint`` the transpose of its derivative. Each is the other's
  backward, so R1 and every higher order follow.
- ``draw`` turns random words into the parameters of a pass, in one launch.

Where nobody looks on who would want to see operators, the kernels are called past torch's dispatcher, whose way takes
more of the host's time than a small batch takes on a GPU.

The module ``_kernels`` takes addresses and knows nothing of torch (``csrc/``).
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..kernels import building
from .cuda import Devices
from .draws import Columns, DrawnPass, Steps
from .params import TransformParams, arithmetic_dtype, memory_format

_CPU = torch.device("cpu")  # a comparison takes less time than a look at the type
_DTYPE_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
Params = TransformParams | DrawnPass
Run = Callable[[Tensor, bool, Params], Tensor]
_PREFERRED = -1  # instruction set of the machine
_NO_STEPS = Steps(-1, None, None, None, None)
_PLAIN_TYPES = {Tensor, torch.nn.Parameter, type(None), bool, int, float, tuple}
_PLAIN_KEYS = 0  # of the dispatcher, for tensors that are memory and nothing else
_KEYS_ARE_BITS = hasattr(torch._C.DispatchKeySet, "raw_repr")  # not before torch 2.5
for _key in ("CPU", "CUDA", "ADInplaceOrView", "AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA"):
    if _KEYS_ARE_BITS:
        _PLAIN_KEYS |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key)).raw_repr()


def _load(reason: str) -> ModuleType | str:
    """The kernels, or why they are not there."""
    if reason:
        return reason
    try:
        return importlib.import_module("gan_regularizers.kernels._kernels")
    except ImportError as error:
        return f"the kernels do not load ({error}); run: gan-regularizers build"


_kernels = _load(building.report().missing)
_unbuilt = "" if isinstance(_kernels, ModuleType) else _kernels
cuda_devices = None if _unbuilt else Devices(_kernels.cuda)


def missing(device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """Why a device, or a dtype on it, has no kernels; empty where it has."""
    if device == _CPU:
        return _unbuilt
    device = torch.device(device)
    kind = device.type
    if kind == "cpu":
        return _unbuilt
    if kind == "meta":
        return ""  # the fake kernels serve it
    if kind != "cuda":
        return f"there are no kernels for devices of type {kind!r}"
    if dtype == torch.float64:
        return "the CUDA kernels take float16, bfloat16 and float32, not float64"
    return _unbuilt or _missing_on_cuda(device.index)


def _missing_on_cuda(index: int | None) -> str:
    return cuda_devices.missing(index)


# A compiler asks when it traces and takes the answer. So says torch.compiler.assume_constant_result, whose import is a
# compiler's.
_missing_on_cuda._dynamo_marked_constant = True


def input_transform(x: Tensor, params: TransformParams, ready: bool = False) -> Tensor:
    """``ops.input_transform``, for params that are checked and hold no normals.

    Those that are ready, as ``_ready`` has it, are not looked at again.
    """
    if not _is_plain(x, *params):
        return _operators.input_transform(x, *params[:10])
    return _pass(x, params if ready else _ready(params, x))


def draws_itself(x: Tensor, words: Tensor, t: Tensor | None) -> bool:
    """``ops.draws_itself``; what is drawn are single-precision numbers."""
    return x.dtype in _DTYPE_CODES and x.dtype != torch.float64 and _is_plain(x, words, t)


def drawn_transform(
    x: Tensor,
    words: Tensor,
    columns: Columns,
    steps: Steps | None,
    centre: float,
    channels: tuple[int, int] | None,
) -> tuple[Tensor, Tensor | None]:
    """``draw`` and ``input_transform`` in one, for x that ``ops.draws_itself``: less host time, and the same bits.

    Args:
        x: float16, bfloat16 or float32 [N, C, H, W].
        words: int64 [R, N], as columns and steps read them; the row after that of the steps are the seeds of the noise.
        columns: of the pass.
        steps: of its noise, if it has any.
        centre: as that of ``TransformParams``.
        channels: as those of ``TransformParams``.

    Returns:
        What ``input_transform`` returns, and the steps t, int64 [N]; None without noise.
    """
    noisy = steps is not None
    steps = steps if noisy else _NO_STEPS
    words = _prepared(words, torch.int64)
    reals, whole, t = _draw_pass(words, columns, _columns_of(columns), steps)
    y = _pass(x, DrawnPass(reals, whole, noisy, centre, channels, words, steps.row + 1))
    return y, t if noisy else None


def draw(words: Tensor, columns: Columns, steps: Steps | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.draw``; the list and the tables of the steps are those of a ``Chain``."""
    steps = _NO_STEPS if steps is None else steps
    if not _is_plain(words, *steps):
        return _operators.draw(words, *columns, *steps)
    return _draw_pass(words, columns, _columns_of(columns), steps)


def _pass(x: Tensor, params: Params) -> Tensor:
    """A pass over x that is plain, with params that are ready."""
    if x.requires_grad and torch.is_grad_enabled():
        return _apply_to_plain(x, params, _transform)
    return _transform(x, False, params)


def _adjoint(cotangent: Tensor, linear: TransformParams) -> Tensor:
    """The transpose of the derivative of a pass, whose brightness and noise are None."""
    if not _is_plain(cotangent, *linear):
        return _operators.input_transform_adjoint(cotangent, *linear[1:6], linear.channels)
    linear = _ready(linear, cotangent)  # hooks may have saved them otherwise
    if cotangent.requires_grad and torch.is_grad_enabled():
        return _Adjoint.apply(cotangent, linear, _transform)
    return _transform(cotangent, True, linear)


def _is_plain(x: Tensor, *values: Any) -> bool:
    """Whether nobody looks on, and tensors are memory and nothing else: no subclass, and x no view of another sign."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or not _KEYS_ARE_BITS:
        return False
    if type(x) not in _PLAIN_TYPES or torch._C._dispatch_keys(x).raw_repr() & ~_PLAIN_KEYS:
        return False
    return _PLAIN_TYPES.issuperset(map(type, values)) and not has_tangent(x)


def has_tangent(x: Tensor) -> bool:
    """Whether forward-mode differentiation looks on, which the operators refuse and the kernels would not see."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _kernels_for(x: Tensor) -> tuple[ModuleType, tuple[int, ...]]:
    """The kernels for x, and where they run: nothing more on the CPU, the device and the stream on CUDA."""
    if not x.is_cuda:
        return _kernels.cpu, ()
    index = x.device.index
    return cuda_devices.kernels_on(index), (index, torch._C._cuda_getCurrentRawStream(index))


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


def _prepared(value: Tensor | None, dtype: torch.dtype, rows_may_lie_apart: bool = False) -> Tensor | None:
    """A part as the kernels read it; usually itself."""
    if value is None:
        return None
    if value.is_neg():
        value = value.resolve_neg()
    if value.dtype != dtype:
        value = value.to(dtype)
    if value.is_contiguous() or (rows_may_lie_apart and value.stride(1) == 1):
        return value
    return value.contiguous()


def _ready(params: TransformParams, x: Tensor) -> TransformParams:
    """The params of a pass over x as the kernels read them."""
    real = arithmetic_dtype(x.dtype)
    brightness, saturation, contrast, shift, cutout, gain, noise_std, seed, *rest = params
    return TransformParams(
        _prepared(brightness, real),
        _prepared(saturation, real),
        _prepared(contrast, real),
        _prepared(shift, torch.int64, rows_may_lie_apart=True),
        _prepared(cutout, torch.int64, rows_may_lie_apart=True),
        _prepared(gain, real),
        _prepared(noise_std, real),
        _prepared(seed, torch.int64),
        *rest,
    )


def _read(params: Params) -> tuple[list[int], int, int]:
    """Where the parts of a pass lie, and from where to where the shift and the box of a sample are."""
    if isinstance(params, DrawnPass):
        return params.addresses(), params.whole.shape[1], params.whole.shape[1]
    shift, cutout = params.shift, params.cutout
    return (
        [0 if part is None else part.data_ptr() for part in params[:8]],
        0 if shift is None else shift.stride(0),
        0 if cutout is None else cutout.stride(0),
    )


def _transform(x: Tensor, adjoint: bool, params: Params) -> Tensor:
    """A pass, or the transpose of its derivative, with params that are ready."""
    layout = memory_format(x)
    per_channel = params.is_per_channel()
    if per_channel and x.is_cuda:
        return _transform_rows(x, adjoint, params).contiguous(memory_format=layout)
    if not x.is_contiguous(memory_format=layout):
        x = x.contiguous(memory_format=layout)
    y = torch.empty_like(x, memory_format=layout)
    arguments = (
        _DTYPE_CODES[x.dtype],
        tuple(x.shape),
        layout == torch.channels_last,
        x.data_ptr(),
        y.data_ptr(),
        adjoint,
        *_read(params),
        (0, x.shape[1]) if params.channels is None else params.channels,
        params.centre,
    )
    kernels, place = _kernels_for(x)
    if not place:
        kernels.transform(*arguments, torch.get_num_threads(), _PREFERRED, per_channel)
        return y
    kept = []  # until the pass is launched

    def workspace(floats: int) -> int:
        kept.append(x.new_empty(floats, dtype=torch.float32))
        return kept[-1].data_ptr()

    kernels.transform(*arguments, workspace, *place)
    return y


def _transform_rows(x: Tensor, adjoint: bool, params: TransformParams) -> Tensor:
    """The same of a pass with values for every channel, as one over a batch whose samples are channels."""
    rows = x.reshape(x.shape[0] * x.shape[1], 1, 1, x.shape[2] * x.shape[3])
    parts = (None if part is None else part.flatten() for part in params[5:8])
    return _transform(rows, adjoint, TransformParams().with_noise(*parts)._replace(centre=params.centre)).view(x.shape)


_LINEAR = "Tensor? saturation, Tensor? contrast, Tensor? shift, Tensor? cutout, Tensor? gain"
_NOISE = "Tensor? noise_std, Tensor? seed"
_CHANNELS = "SymInt[]? channels=None"
_COLUMNS = (
    "int[] real_row, float[] scale, float[] low, float[] neutral, int[] row, SymInt[] count, SymInt[] offset, "
    "int touched_row, float p"
)
_STEPS = "int entry_row, Tensor? t, Tensor? t_list, Tensor? gain, Tensor? noise_scale"

_library = torch.library.Library("gan_regularizers", "DEF")
for _schema in (
    f"input_transform(Tensor x, Tensor? brightness, {_LINEAR}, {_NOISE}, float centre=0.0, {_CHANNELS}) -> Tensor",
    f"input_transform_adjoint(Tensor cotangent, {_LINEAR}, {_CHANNELS}) -> Tensor",
    f"draw(Tensor words, {_COLUMNS}, {_STEPS}) -> (Tensor, Tensor, Tensor)",
):
    # A compiler must keep the order of the strides that it traced: the output takes it over.
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
_operators = torch.ops.gan_regularizers


def _input_transform(x: Tensor, *params: Any) -> Tensor:
    return _transform(x, False, _ready(TransformParams(*params), x))


def _input_transform_adjoint(cotangent: Tensor, *linear: Any) -> Tensor:
    return _transform(cotangent, True, _ready(_linear(*linear), cotangent))


def _linear(
    saturation: Tensor | None,
    contrast: Tensor | None,
    shift: Tensor | None,
    cutout: Tensor | None,
    gain: Tensor | None,
    channels: Sequence[int] | None = None,
) -> TransformParams:
    """The parts of a pass that its adjoint has."""
    return TransformParams(None, saturation, contrast, shift, cutout, gain, channels=channels)


def _draw(words: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    columns, (row, t, t_list, gain, noise_scale) = Columns(*arguments[:9]), arguments[9:]
    t_list, tables = _prepared(t_list, torch.int64), [_prepared(table, torch.float32) for table in (gain, noise_scale)]
    return _draw_pass(words, columns, _kernels.cpu.Columns(*columns), Steps(row, t, t_list, *tables))


@functools.lru_cache
def _columns_of(columns: Columns) -> Any:
    """Columns as the kernels read them."""
    return _kernels.cpu.Columns(*columns)


def _draw_pass(words: Tensor, columns: Columns, read: Any, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """Read is the columns as the kernels have them; so are the list and the tables of the steps."""
    words = _prepared(words, torch.int64)
    row, t, t_list, gain, noise_scale = steps
    t, lengths = _prepared(t, torch.int64), (0, 0)
    if gain is not None:
        lengths = (t_list.numel(), min(gain.numel(), noise_scale.numel()))
    reals, whole, chosen = outputs = _drawn(words, columns, steps)
    kernels, place = _kernels_for(words)
    kernels.draw(
        words.data_ptr(),
        *words.shape,
        read,
        (row, _address(t), _address(t_list), _address(gain), _address(noise_scale), *lengths),
        (reals.data_ptr(), whole.data_ptr(), chosen.data_ptr()),
        *place,
    )
    return outputs


def _drawn(words: Tensor, columns: Columns, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what is drawn."""
    samples, looked_up = words.shape[1], steps.gain is not None
    reals = words.new_empty((len(columns.scale) + 2 * looked_up, samples), dtype=torch.float32)
    return reals, words.new_empty((samples, len(columns.count))), words.new_empty((samples if looked_up else 0,))


for _device in ("CPU", "CUDA"):
    for _kernel in (_input_transform, _input_transform_adjoint, _draw):
        _library.impl(_kernel.__name__.removeprefix("_"), _kernel, _device)


@torch.library.register_fake("gan_regularizers::input_transform")
def _fake_input_transform(x: Tensor, *_: Any) -> Tensor:
    return _empty(x)


@torch.library.register_fake("gan_regularizers::input_transform_adjoint")
def _fake_input_transform_adjoint(cotangent: Tensor, *_: Any) -> Tensor:
    return _empty(cotangent)


@torch.library.register_fake("gan_regularizers::draw")
def _fake_draw(words: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _drawn(words, Columns(*arguments[:9]), Steps(*arguments[9:]))


# torch.library.register_autograd does the same as these two classes in more of the host's time. Parameters are one
# argument, which torch does not look into: none of them has a gradient. What runs is the kernel, or the operator.
class _Transform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, params: Params, run: Run) -> Tensor:
        ctx.channels = params.channels
        ctx.save_for_backward(*(params.linear() if isinstance(params, DrawnPass) else params[1:6]))
        return run(x, False, params)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None, None]:
        return _adjoint(cotangent, _linear(*ctx.saved_tensors, ctx.channels)), None, None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cotangent: Tensor, linear: TransformParams, run: Run) -> Tensor:
        ctx.channels = linear.channels
        ctx.save_for_backward(*linear[1:6])
        return run(cotangent, True, linear)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return input_transform(gradient, _linear(*ctx.saved_tensors, ctx.channels)), None, None


# Without the look at transforms of torch.func that Function.apply takes first: a plain tensor is in none.
_apply_to_plain = super(torch.autograd.Function, _Transform).apply


def _operator(x: Tensor, adjoint: bool, params: TransformParams) -> Tensor:
    """``_transform`` through torch's dispatcher, below autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        if adjoint:
            return _operators.input_transform_adjoint(x, *params[1:6], params.channels)
        return _operators.input_transform(x, *params[:10])


def _differentiable(x: Tensor, *params: Any) -> Tensor:
    return _Transform.apply(x, TransformParams(*params), _operator)


def _differentiable_adjoint(cotangent: Tensor, *linear: Any) -> Tensor:
    return _Adjoint.apply(cotangent, _linear(*linear), _operator)


_library.impl("input_transform", _differentiable, "Autograd")
_library.impl("input_transform_adjoint", _differentiable_adjoint, "Autograd")
