"""The parameters of one pass of the operator."""

import math
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

    All tensors lie on the input's device. No gradient is defined for them. Brightness, saturation, contrast, gain and
    noise are for the picture's channels alone, shift and cutout for all.

    Gain, noise_std and seed may have a value for every channel instead, [N, C]. A pass has no other part then.
    """

    brightness: Tensor | None = None  #: [N] float, added
    saturation: Tensor | None = None  #: [N] float, scales each pixel about its channel mean
    contrast: Tensor | None = None  #: [N] float, scales about the sample mean
    shift: Tensor | None = None  #: [N, 2] int64, rows down and columns right, in pixels; the centre comes in
    cutout: Tensor | None = None  #: [N, 4] int64, the erased box as top, bottom, left, right, half open
    gain: Tensor | None = None  #: [N] float, sqrt(alpha_bar_t)
    noise_std: Tensor | None = None  #: [N] float, sqrt(1 - alpha_bar_t) * sigma
    seed: Tensor | None = None  #: [N] int64, the key of each sample's normals (or, as these three are then, [N, C])
    centre: float = 0.0  #: the grey that gain scales about, and that a shift brings in and a cutout leaves
    channels: tuple[int, int] | None = None  #: the picture's, half open, 0 <= begin < end <= C; None for all
    normals: Tensor | None = None  #: float of the input's shape, in place of a seed; the pass runs on the reference

    def is_per_channel(self) -> bool:
        """Whether gain, noise_std and seed have a value for every channel."""
        return _is_of_channels(self.gain) or _is_of_channels(self.noise_std) or _is_of_channels(self.seed)

    def with_noise(
        self, gain: Tensor, noise_std: Tensor, seed: Tensor | None, normals: Tensor | None = None
    ) -> "TransformParams":
        """The same pass with this noise in place of its own."""
        # By position, since torch.compile cannot do _replace in torch 2.4.
        return TransformParams(*self[:5], gain, noise_std, seed, self.centre, self.channels, normals)

    def check(self, x: Tensor) -> None:
        """Raise ValueError where a part does not fit the batch x or asks for a gradient."""
        device, shapes = x.device, {1: (x.shape[0],), 2: (x.shape[0], 2), 4: (x.shape[0], 4)}
        if self.normals is not None:
            shapes[0] = x.shape
        if self.is_per_channel():
            self._check_only_noise()
            shapes[1] = x.shape[:2]
        parts = zip(_TENSORS, (*self[:8], self.normals), strict=True)
        for (name, columns, whole), value in parts:
            if value is None:
                continue
            if value.shape != shapes[columns]:
                needed = list(shapes[columns])
                raise ValueError(f"params.{name} has shape {list(value.shape)}; this input needs {needed}")
            if whole and (value.is_floating_point() or value.is_complex()):
                raise ValueError(f"params.{name} has dtype {value.dtype}; whole numbers are needed, best int64")
            if value.device != device:
                raise ValueError(f"params.{name} lies on {value.device} and x on {device}; they need one device")
            if value.requires_grad:
                raise ValueError(f"params.{name} requires a gradient, but none is defined for it; pass {name}.detach()")
        if self.normals is not None and self.seed is not None:
            raise ValueError("params.seed and params.normals are both given; the noise comes from one of them")
        if (self.noise_std is None) != (self.seed is None and self.normals is None):
            raise ValueError("params.noise_std and params.seed belong together; give both or neither")
        if not (isinstance(self.centre, (int, float)) and math.isfinite(self.centre)):
            raise ValueError(f"params.centre={self.centre!r} is no finite number")
        if self.channels is not None:
            self._check_channels(x)

    def _check_only_noise(self) -> None:
        for name in ("brightness", "saturation", "contrast", "shift", "cutout", "channels"):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(
                    f"params.{name} is given beside a gain or a noise_std for every channel; do it in a pass of its own"
                )

    def _check_channels(self, x: Tensor) -> None:
        fits = isinstance(self.channels, tuple) and len(self.channels) == 2
        if not fits or not 0 <= self.channels[0] < self.channels[1] <= x.shape[1]:
            raise ValueError(
                f"params.channels={self.channels!r} are none of this input, which has shape {list(x.shape)}; "
                f"(begin, end) with 0 <= begin < end <= {x.shape[1]} is needed, or None for all"
            )


def _is_of_channels(value: Tensor | None) -> bool:
    return value is not None and value.dim() == 2


# Name, numbers per sample (0: as many as its elements) and whether they are whole, in the order of the fields.
_TENSORS = (
    ("brightness", 1, False),
    ("saturation", 1, False),
    ("contrast", 1, False),
    ("shift", 2, True),
    ("cutout", 4, True),
    ("gain", 1, False),
    ("noise_std", 1, False),
    ("seed", 1, True),
    ("normals", 0, False),
)
