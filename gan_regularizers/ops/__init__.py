"""The differentiable operator: one pass of augmentation and noise over a batch, and the choice of its backend."""

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from . import native, reference
from .draws import Columns, Levels, Steps, parts_of
from .native import drawn_transform
from .params import DTYPES, TransformParams, arithmetic_dtype, memory_format
from .philox import philox_normal

__all__ = [
    "BackendWarning",
    "Columns",
    "Levels",
    "Steps",
    "TransformParams",
    "arithmetic_dtype",
    "backend",
    "check_floating",
    "draw",
    "drawn_transform",
    "draws_itself",
    "input_transform",
    "memory_format",
    "parts_of",
    "random_words",
    "runs_reference",
    "use_backend",
]

_VARIABLE = "GAN_REGULARIZERS_BACKEND"
_BACKENDS = ("auto", "reference", "native")
_choice = os.environ.get(_VARIABLE, "auto")
_choice_from = _VARIABLE
_warned: set[str] = set()


class BackendWarning(UserWarning):
    """The operator runs without its fused kernels, though nobody asked for that."""


def backend(device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> tuple[str, str]:
    """The name of the backend in force for a device (and a dtype on it), and why it is.

    Raises:
        ValueError: the choice, by ``use_backend`` or ``GAN_REGULARIZERS_BACKEND``, names no backend.
        RuntimeError: it asks for kernels that are not there.
    """
    if _choice not in _BACKENDS:
        raise ValueError(f"{_choice_from}: {_choice!r} is no backend; choose 'auto', 'reference' or 'native'")
    if _choice == "reference":
        return "reference", f"chosen by {_choice_from}"
    missing = native.missing(device, dtype)
    if not missing:
        return "native", "the kernels are there" if _choice == "auto" else f"chosen by {_choice_from}"
    if _choice == "native":
        raise RuntimeError(f"{_choice_from}: 'native', but {missing}")
    return "reference", missing


def runs_reference(x: Tensor) -> bool:
    """Whether the reference is in force for x's device and dtype, where normals from a seed would be slow."""
    return backend(x.device, x.dtype)[0] == "reference"


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operator on backend ``"auto"``, ``"reference"`` or ``"native"`` inside a ``with`` block.

    ``auto`` takes the native kernels where they are built for the input's device and dtype; else it runs the reference
    and says why in one ``BackendWarning``. Inside ``torch.func``'s transforms, forward-mode differentiation and
    ``torch.jit.trace``, which see plain operations of torch alone, every choice runs the reference.

    The choice holds for the process: blocks of two threads must not overlap. The environment variable
    ``GAN_REGULARIZERS_BACKEND``, read at import, sets the backend for a whole run.

    Raises:
        ValueError: name is no backend.
        RuntimeError: ``native`` where there are no kernels, on entering or at a call with an input that has none.
    """
    global _choice, _choice_from
    before = _choice, _choice_from
    _choice, _choice_from = name, "use_backend"
    try:
        backend()
        yield
    finally:
        _choice, _choice_from = before


def check_floating(x: Tensor) -> None:
    """Raise TypeError unless x is a tensor of a dtype that the operator takes."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}; a torch.Tensor is needed")
    if x.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"x has dtype {x.dtype}; allowed are {names} (images as floats in [-1, 1])")


def input_transform(x: Tensor, params: TransformParams, fits: bool = False) -> Tensor:
    """One pass of the operator (``gan_regularizers.ops.reference`` states it), with noise from ``params.seed``.

    Where params hold normals in place of a seed, it runs on the reference, whatever the backend.

    Args:
        x: float16, bfloat16, float32 or float64 [N, C, H, W].
        params: the parts of the pass, on x's device.
        fits: params were drawn for x, images of a dtype that the operator takes: nothing is checked.

    Returns:
        A tensor of x's shape, dtype and memory format; differentiable any number of times with respect to x.

    Raises:
        TypeError: x is no floating-point tensor.
        ValueError: x has another rank, or a parameter does not fit it or requires a gradient.
        RuntimeError: native kernels were asked for and are not there.
    """
    if not fits:
        check_floating(x)
        if x.dim() != 4:
            raise ValueError(f"x has shape {list(x.shape)}; the operator needs [N, C, H, W]")
        params.check(x)
    if params.normals is None and _backend_for(x, x.dtype) is native:
        return native.input_transform(x, params, ready=fits and x.dtype != torch.float64)
    noise = params.normals
    if params.seed is not None:
        seed = params.seed
        numel = math.prod(x.shape[seed.dim() :])
        noise = philox_normal(seed.flatten(), numel, arithmetic_dtype(x.dtype)).view(x.shape)
    return reference.input_transform(x, params, noise)


def random_words(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Random 64-bit words, int64 of this shape, from torch's generator of the device or the one given."""
    # With generator=None torch takes another overload, which cannot be compiled for a batch size that varies.
    if generator is None:
        return torch.randint(-(2**63), 2**63 - 1, shape, device=device)
    return torch.randint(-(2**63), 2**63 - 1, shape, device=device, generator=generator)


def draw(
    words: Tensor, passes: Sequence[Columns], steps: Steps | None = None
) -> tuple[list[tuple[Sequence[Tensor], Tensor]], Levels | None]:
    """Draw the parameters of a batch from random words, int64 [R, N], in one launch for each pass.

    The noise levels are looked up in the launch of the last pass, or in one of their own where there is no pass.

    Returns:
        The reals and whole numbers of each pass as in ``reference.draw``, and the levels at the steps.
    """
    drawn, levels = [], None
    if not passes and steps is None:
        return drawn, levels
    run = _backend_for(words).draw
    for i, columns in enumerate(passes or (Columns(),)):
        last = i + 1 >= len(passes)
        reals, whole, t = run(words, columns, steps if last else None)
        rows = reals.unbind()
        if last and steps is not None:
            *rows, gain, noise_std = rows
            levels = Levels(t, gain, noise_std)
        drawn.append((rows, whole))
    return drawn[: len(passes)], levels


def draws_itself(x: Tensor, words: Tensor, t: Tensor | None) -> bool:
    """Whether ``drawn_transform`` takes x, the words and the steps of a caller's: whether all of them are plain."""
    return (
        isinstance(x, Tensor)
        and x.dim() == 4
        and native.draws_itself(x, words, t)
        and not _is_transformed()
        and backend(x.device, x.dtype)[0] == "native"
    )


def _backend_for(x: Tensor, dtype: torch.dtype | None = None) -> ModuleType:
    if _sees_only_torch(x):
        return reference
    name, reason = backend(x.device, dtype)
    if name == "native":
        return native
    if _choice == "auto" and not torch.compiler.is_compiling() and reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"gan_regularizers runs without its fused kernels: {reason}", BackendWarning, stacklevel=2)
    return reference


def _sees_only_torch(x: Tensor) -> bool:
    """Whether a transform of ``torch.func``, ``torch.jit.trace`` or forward-mode differentiation looks on."""
    if torch.compiler.is_compiling():
        return False
    return _is_transformed() or native.has_tangent(x)


def _is_transformed() -> bool:
    """Whether this runs inside of a transform of ``torch.func`` or ``torch.jit.trace``."""
    return torch._C._functorch.peek_interpreter_stack() is not None or torch._C._get_tracing_state() is not None
