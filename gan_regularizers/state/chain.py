"""The tables of a chain of diffusion, at one moment and on any device."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from .recomputation import Remembered, is_captured

_COMPILES_FOR_A_TENSOR = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5)


class Chain(NamedTuple):
    """What a draw reads; replaced as a whole, never changed in place."""

    t_list: Tensor  # int64 [64], which t is drawn from
    gain: Tensor  # float32 [t_max + 1], sqrt(alpha_bar_t)
    noise_scale: Tensor  # float32 [t_max + 1], sqrt(1 - alpha_bar_t) * sigma

    def to(self, device: torch.device) -> "Chain":
        """The chain on another device, without a wait for it."""
        pinned = device.type == "cuda" and not torch.compiler.is_compiling()
        return Chain(*((table.pin_memory() if pinned else table).to(device, non_blocking=True) for table in self))


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Make tensors that outlast inference mode and the transforms of torch.func, whose own cannot be used outside."""
    with torch.inference_mode(False), temporarily_clear_interpreter_stack():
        yield


class Chains:
    """The current chain, on the CPU and on every device that asked for it.

    What a CUDA graph captured has fixed addresses, so it takes tables of its own, which are changed in place. So does
    code that torch before 2.5 compiles, which would compile it again for every other tensor.
    """

    def __init__(self, chain: Chain) -> None:
        self.drawn_from = False  # since somebody put it to False
        self._chain = chain
        self._on: dict[torch.device, Chain] = {}
        self._fixed: dict[torch.device, Chain] = {}
        self._remembered = Remembered()

    def __getstate__(self) -> dict[str, Any]:
        return {"chain": self._chain}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def replace(self, chain: Chain) -> None:
        """Put another chain in the place of the current one, on all devices; those drawn from before keep theirs."""
        self._chain = chain
        with lasting():
            for device in self._on:
                self._on[device] = chain.to(device)
            for device, fixed in self._fixed.items():
                for table, new in zip(fixed, self._on[device], strict=True):
                    table.copy_(new)

    def on(self, device: torch.device) -> Chain:
        """The current chain on a device."""
        chain = self._on.get(device)
        if chain is None:
            if is_captured(device):
                raise RuntimeError(
                    f"the noise has not run on {device} yet, and a CUDA graph that is being captured cannot bring its "
                    f"tables there; run the step once before it is captured"
                )
            if torch.compiler.is_compiling():
                return self._bring(device)
            with lasting():
                return self._bring(device)
        return chain

    def for_draw(self, words: Tensor, generator: torch.Generator | None = None) -> Chain:
        """The chain that the draw reads which has just drawn these words."""
        self.drawn_from = True
        device = words.device
        chain = self.on(device)
        if is_captured(device) or (_COMPILES_FOR_A_TENSOR and torch.compiler.is_compiling()):
            return self._fixed[device]
        return self._remembered(chain, device, generator, words)

    def _bring(self, device: torch.device) -> Chain:
        chain = self._on[device] = self._chain.to(device)
        if device.type == "cuda" or _COMPILES_FOR_A_TENSOR:
            self._fixed[device] = Chain(*(table.clone() for table in chain))
        return chain
