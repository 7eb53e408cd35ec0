"""A module whose buffers keep their dtype."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """``.half()``, ``.to(torch.bfloat16)`` and the like move the buffers but leave their dtype.

    The buffers of the regularizers are tables and a controller's state. In half precision alpha_bar would lose its
    small steps, and p would stop moving.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "ExactBuffers":
        before = dict(self._buffers)
        super()._apply(fn, *args, **kwargs)
        for name, buffer in before.items():
            converted = self._buffers[name]
            if buffer is not None and converted is not None and converted.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(converted.device)
        return self
