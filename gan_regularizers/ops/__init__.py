"""The differentiable operator: one pass of augmentation and noise over a batch, and the choice of its backend."""

import contextlib
import os
from collections.abc import Iterator

from torch import Tensor

from . import reference
from .params import DTYPES, TransformParams, arithmetic_dtype, memory_format
from .philox import philox_normal

__all__ = ["TransformParams", "backend", "check_floating", "input_transform", "memory_format", "use_backend"]

_VARIABLE = "GAN_REGULARIZERS_BACKEND"
_choice = os.environ.get(_VARIABLE, "auto")
_choice_from = _VARIABLE


def backend() -> tuple[str, str]:
    """The name of the backend in force, and why it is.

    Raises:
        ValueError: the choice, by ``use_backend`` or ``GAN_REGULARIZERS_BACKEND``, names no backend.
        RuntimeError: it asks for kernels that are not there.
    """
    if _choice == "auto":
        return "reference", "this version has no native kernels yet"
    if _choice == "reference":
        return "reference", f"chosen by {_choice_from}"
    if _choice == "native":
        raise RuntimeError(f"{_choice_from}: 'native', but this version has no native kernels yet; use 'auto'")
    raise ValueError(f"{_choice_from}: {_choice!r} is no backend; choose 'auto', 'reference' or 'native'")


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operator on backend ``"auto"``, ``"reference"`` or ``"native"`` inside a ``with`` block.

    The environment variable ``GAN_REGULARIZERS_BACKEND``, read at import, sets it for a whole run.
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


def input_transform(x: Tensor, params: TransformParams) -> Tensor:
    """One pass of the operator (``gan_regularizers.ops.reference`` states it), with noise from ``params.seed``.

    Args:
        x: float16, bfloat16, float32 or float64 [N, C, H, W].
        params: the parts of the pass, on x's device.

    Returns:
        A tensor of x's shape, dtype and memory format; differentiable any number of times with respect to x.

    Raises:
        TypeError: x is no floating-point tensor.
        ValueError: x has another rank, or a parameter does not fit it or requires a gradient.
        RuntimeError: native kernels were asked for and are not there.
    """
    backend()
    check_floating(x)
    if x.dim() != 4:
        raise ValueError(f"x has shape {list(x.shape)}; the operator needs [N, C, H, W]")
    params.check(x.shape[0])
    noise = None
    if params.seed is not None:
        noise = philox_normal(params.seed, x[:1].numel(), arithmetic_dtype(x.dtype)).view(x.shape)
    return reference.input_transform(x, params, noise)
