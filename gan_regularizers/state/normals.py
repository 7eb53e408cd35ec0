"""Standard normals as tensors, which a draw holds where no kernels make them from a seed."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import arithmetic_dtype
from .recomputation import generator_state, has_state


class Normals:
    """Standard normals of one draw: images of one shape share theirs, every other shape has its own.

    They are as large as the images, so they are not kept but made again from the state that the generator had. Where
    that cannot be told, as in compiled code, they are kept.

    Args:
        generator: what they come from; the default is torch's of the device.
        earlier: those of a draw that is shared, which come first; a shape that they lack is added to them. The shape is
            drawn from the generator all the same: so activation checkpointing, which runs a call again when the draw
            has all shapes, finds the generator where it was.
    """

    def __init__(self, generator: torch.Generator | None = None, earlier: "Normals | None" = None) -> None:
        self.generator = generator
        self._earlier = earlier
        self._made: list[_Made] = []

    def like(self, x: Tensor) -> Tensor:
        """Normals of x's shape on its device, in the dtype of its arithmetic."""
        known = self._find(x)
        if known is not None:
            return known.again()
        tells = has_state(x.device) and torch._C._get_tracing_state() is None
        state = generator_state(x.device, self.generator) if tells else None
        dtype = arithmetic_dtype(x.dtype)
        normals = _normals(x.shape, dtype, x.device, self.generator)
        made = _Made(x.shape, dtype, x.device, state, normals if state is None else None)
        if self._earlier is not None:
            known = self._earlier._find(x)
            if known is None:
                self._earlier._made.append(made)
            else:
                made, normals = known, known.again()
        self._made.append(made)
        return normals

    def _find(self, x: Tensor) -> "_Made | None":
        # No dictionary: sizes that vary in a compiled program are no keys.
        for made in self._made:
            if made[:3] == (x.shape, arithmetic_dtype(x.dtype), x.device):
                return made
        return None


class _Made(NamedTuple):
    """Normals, or the state of the generator before them."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    state: Tensor | None
    normals: Tensor | None

    def again(self) -> Tensor:
        if self.normals is not None:
            return self.normals
        return _normals(self.shape, self.dtype, self.device, torch.Generator(self.device).set_state(self.state))


def _normals(shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None) -> Tensor:
    if generator is None:  # another overload, as for random words
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)
