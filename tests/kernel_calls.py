"""Calls of the kernel modules with tensors in place of addresses."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gan_regularizers.ops import TransformParams, memory_format

CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def each(params: TransformParams, change: Callable[[Tensor], Tensor]) -> TransformParams:
    """The same pass with every tensor changed."""
    return TransformParams(*(change(value) if isinstance(value, Tensor) else value for value in params))


def arguments(x: Tensor, out: Tensor, params: TransformParams, adjoint: bool) -> tuple[dict[str, Any], list[Tensor]]:
    """What both modules' ``transform`` takes, and the tensors that must outlive the call."""
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    *tensors, centre, channels = params
    kept = [None if v is None else (v if v.dtype == torch.int64 else v.to(real)).contiguous() for v in tensors]
    return {
        "dtype": CODES[x.dtype],
        "shape": tuple(x.shape),
        "channels_last": memory_format(x) == torch.channels_last,
        "input": x.data_ptr(),
        "output": out.data_ptr(),
        "adjoint": adjoint,
        "parts": [0 if value is None else value.data_ptr() for value in kept],
        "shift_stride": 2,
        "cutout_stride": 4,
        "picture": channels or (0, x.shape[1]),
        "centre": centre,
    }, kept


def on_cpu(
    kernels: ModuleType,
    x: Tensor,
    params: TransformParams,
    adjoint: bool = False,
    *,
    threads: int = 1,
    instruction_set: int = -1,
) -> Tensor:
    """A pass on the CPU kernels, into memory that was NaN before."""
    out = torch.full_like(x, torch.nan)
    given, _kept = arguments(x, out, params, adjoint)
    kernels.transform(**given, threads=threads, instruction_set=instruction_set)
    return out


def on_cuda(kernels: ModuleType, x: Tensor, params: TransformParams, adjoint: bool = False, device: int = 0) -> Tensor:
    """A pass on the CUDA kernels, or on their emulation with tensors of the CPU."""
    out = torch.full_like(x, torch.nan)
    given, _kept = arguments(x, out, params, adjoint)
    workspaces = []

    def workspace(floats: int) -> int:
        workspaces.append(x.new_full((floats,), torch.nan, dtype=torch.float32))
        return workspaces[-1].data_ptr()

    kernels.transform(**given, workspace=workspace, device=device, stream=0)
    return out
