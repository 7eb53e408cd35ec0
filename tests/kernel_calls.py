"""Calls of the kernel modules with tensors in place of addresses."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gan_regularizers.ops import Columns, Steps, TransformParams, memory_format

CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def each(params: TransformParams, change: Callable[[Tensor], Tensor]) -> TransformParams:
    """The same pass with every tensor changed."""
    return TransformParams(*(change(value) if isinstance(value, Tensor) else value for value in params))


def arguments(x: Tensor, out: Tensor, params: TransformParams, adjoint: bool) -> tuple[dict[str, Any], list[Tensor]]:
    """What both modules' ``transform`` takes, and the tensors that must outlive the call."""
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    *tensors, centre, channels, _normals = params
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
    kernels.transform(**given, threads=threads, instruction_set=instruction_set, per_channel=params.is_per_channel())
    return out


def on_cuda(
    kernels: ModuleType, x: Tensor, params: TransformParams, adjoint: bool = False, *, device: int = 0, stream: int = 0
) -> Tensor:
    """A pass on the CUDA kernels, or on their emulation with tensors of the CPU."""
    out = torch.full_like(x, torch.nan)
    given, _kept = arguments(x, out, params, adjoint)
    workspaces = []

    def workspace(floats: int) -> int:
        workspaces.append(x.new_full((floats,), torch.nan, dtype=torch.float32))
        return workspaces[-1].data_ptr()

    kernels.transform(**given, workspace=workspace, device=device, stream=stream)
    return out


def draw(
    kernels: ModuleType, words: Tensor, columns: Columns, steps: Steps | None = None, /, *place: int, **changed: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The reals, whole numbers and steps of either module's ``draw``; place is the device and stream on CUDA.

    An argument, or a part of ``levels`` and ``outputs`` by its name, may be another one.
    """
    samples = words.shape[1]
    reals = torch.full((len(columns.scale) + 2 * (steps is not None), samples), torch.nan)
    whole = torch.full((samples, len(columns.count)), -1)
    t = torch.full((samples if steps is not None else 0,), -1)
    row, *tables = (0, *[None] * 4) if steps is None else steps
    named = {
        "entry_row": row,
        **dict(zip(("given", "t_list", "gain_table", "noise_table"), map(_address, tables), strict=True)),
        "length": 0 if steps is None else len(steps.t_list),
        "table_length": 0 if steps is None else len(steps.gain),
    }
    named = {name: changed.pop(name, value) for name, value in named.items()}
    outputs = {"reals": reals.data_ptr(), "integers": whole.data_ptr(), "t": t.data_ptr()}
    outputs = {name: changed.pop(name, value) for name, value in outputs.items()}
    given = {"words": words.data_ptr(), "word_rows": len(words), "samples": samples, "columns": columns} | changed
    try:
        given["columns"] = kernels.Columns(*given["columns"])
        kernels.draw(*given.values(), tuple(named.values()), list(outputs.values()), *place)
    except ValueError:
        assert reals.isnan().all()
        assert (torch.cat([whole.flatten(), t]) == -1).all()
        raise
    return reals, whole, t


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()
