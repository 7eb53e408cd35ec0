"""The parameters of one pass of the operator."""

from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format(x: Tensor) -> torch.memory_format:
    """The layout that the operator's output takes over from its input."""
    channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class TransformParams(NamedTuple):
    """What one pass does to each of N samples; a part that is None is left out.

    All tensors lie on the input's device. No gradient is defined for them.
    """

    brightness: Tensor | None = None  # [N] float, added
    saturation: Tensor | None = None  # [N] float, scales each pixel about its channel mean
    contrast: Tensor | None = None  # [N] float, scales about the sample mean
    shift: Tensor | None = None  # [N, 2] int64, rows down and columns right, in pixels; zeros come in
    cutout: Tensor | None = None  # [N, 4] int64, the zeroed box: top, bottom, left, right, half open
    gain: Tensor | None = None  # [N] float, sqrt(alpha_bar_t)
    noise_std: Tensor | None = None  # [N] float, sqrt(1 - alpha_bar_t) * sigma
    seed: Tensor | None = None  # [N] int64, the key of each sample's normals

    def check(self, x: Tensor) -> None:
        """Raise ValueError where a part does not fit the batch x or asks for a gradient."""
        columns = {"shift": (2,), "cutout": (4,)}
        for name in TransformParams._fields:
            value = getattr(self, name)
            if value is None:
                continue
            shape = (x.shape[0], *columns.get(name, ()))
            if tuple(value.shape) != shape:
                raise ValueError(f"params.{name} has shape {list(value.shape)}; this input needs {list(shape)}")
            if name in ("shift", "cutout", "seed") and (value.is_floating_point() or value.is_complex()):
                raise ValueError(f"params.{name} has dtype {value.dtype}; whole numbers are needed, best int64")
            if value.device != x.device:
                raise ValueError(f"params.{name} lies on {value.device} and x on {x.device}; they need one device")
            if value.requires_grad:
                raise ValueError(f"params.{name} requires a gradient, but none is defined for it; pass {name}.detach()")
        if (self.noise_std is None) != (self.seed is None):
            raise ValueError("params.noise_std and params.seed belong together; give both or neither")
