"""A module whose buffers keep their dtype and their values."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """``.half()``, ``.to(torch.bfloat16)``, ``to_empty`` and the like move the buffers and do nothing else to them.

    They are a controller's state: in half precision p would stop moving, and memory that was just allocated is no p. On
    the meta device values are lost, so what comes from there is written by ``reset_parameters``, which torch's deferred
    initialisation calls too.
    """

    def reset_parameters(self) -> None:
        """Write the buffers anew, from what the host knows of them."""
        raise NotImplementedError

    def _take_over(self) -> None:
        """Have the host know what the buffers hold."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "ExactBuffers":
        self._take_over()
        before = dict(self._buffers)
        super()._apply(fn, *args, **kwargs)
        for name, buffer in before.items():
            if not buffer.is_meta:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        if any(buffer.is_meta for buffer in before.values()):
            self.reset_parameters()
        return self
