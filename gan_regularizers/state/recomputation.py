"""What a forward used, for the one that activation checkpointing runs again in the backward pass.

Checkpointing puts torch's generator back to where it was, so a forward that is run again draws the same words. But what
it does with them may have moved on meanwhile: the chain of a noise, say, or the draw that several calls shared. The
state of the generator is what tells which forward it is, or the words that it has drawn.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

_CPU = torch.device("cpu")  # a comparison takes less time than a look at the type
_TELLING = 64  # words of a draw: no two draws of one shape begin with the same
_KEPT = 4096  # forwards between the first one and its backward pass


def backward_pass() -> int:
    """The number of the backward pass that this runs inside of; -1 outside of one, and in compiled code."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def runs_again() -> bool:
    """Whether this runs inside a backward pass, where a forward is one that checkpointing runs again."""
    return backward_pass() != -1


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    if device == _CPU or device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return torch.cuda.is_current_stream_capturing()


class Remembered:
    """Values by the state of torch's generator, or by words; the latest few thousand. A copy begins with none."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def __reduce__(self) -> tuple:
        return Remembered, ()

    def __call__(
        self, value: Any, device: torch.device, generator: torch.Generator | None = None, words: Tensor | None = None
    ) -> Any:
        """Keep the value that this forward uses; of a forward that runs again, return what the first run used.

        To be called before the generator is drawn from, or with the words, int64 [R, ...], that it has just given. On
        the CPU the first of them are read in place of the generator's state, which has 5 KB there.

        In compiled code, captured graphs and transforms of torch.func the value is returned as it is: they save what
        their backward pass needs, or cannot run again.
        """
        if not has_state(device):
            return value
        # With the device, since generators of two devices may be seeded alike.
        if _is_at_hand(words):
            state = device, words.shape, hash(words.numpy()[0].ravel()[:_TELLING].tobytes())
        else:
            state = device, hash(generator_state(device, generator).numpy().tobytes())
        if runs_again():
            return self._values.get(state, value)
        self._values[state] = value
        self._values.move_to_end(state)
        if len(self._values) > _KEPT:
            self._values.popitem(last=False)  # a plain dictionary would look for its first key
        return value


def has_state(device: torch.device) -> bool:
    """Whether the state of the generator can be told."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return device.type != "meta" and not is_captured(device)


def _is_at_hand(words: Tensor | None) -> bool:
    return type(words) is Tensor and words.is_cpu and torch._C._get_tracing_state() is None


def generator_state(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """The generator's state, uint8 on the CPU; reading it does not wait for the device."""
    if generator is not None:
        return generator.get_state()
    if device.type == "cpu":
        return torch.default_generator.get_state()
    return torch.get_device_module(device).get_rng_state(device)
