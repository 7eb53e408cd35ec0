"""What StyleGAN2-ADA, StyleGAN3, ProjectedGAN and InsGen need of a PyTorch that is younger than they are.

Importing this module mends what is broken here and leaves the rest alone. To see what it changed::

    python -m gan_regularizers.adapters.modern_torch

A patched repository imports it before all else of its own, in every script and every process.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import time
import warnings
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

changes: list[str]  # a line for each thing that importing this module changed


def prepare(device: torch.device, *_: ModuleType) -> torch.device:
    """Mend what a repository's own modules do that current PyTorch breaks, before its networks are built.

    Its convolution and grid_sample are switched off, where torch's do all that they did. They were made for torch 1.7
    to 1.10, to make double backward quick or possible, and call operators that are gone. torch's ``conv2d`` has double
    backward. Its ``grid_sample`` has it in 2.13 and has not in 2.4; where it has not, ``grid_sample`` of this module
    takes its place. ProjectedGAN's feature network gets its weights from ``efficientnet_lite``, and InsGen's
    contrastive heads train in one process too and go on from a snapshot.

    Args:
        device: the one that the repository means to train on.

    Returns:
        The device, or the CPU where torch finds no CUDA device; a warning says so.
    """
    for name, mend in _MODULES.items():
        if (module := _import_if_there(name)) is not None:
            mend(module)
    if device.type == "cuda" and not torch.cuda.is_available():
        warnings.warn("torch finds no CUDA device; training runs on the CPU, which is for tests", stacklevel=2)
        return torch.device("cpu")
    return device


def _switch_off(gradfix: ModuleType) -> None:
    gradfix.enabled = False


def _mend_grid_sample(gradfix: ModuleType) -> None:
    gradfix.enabled = False
    if not _differentiable_twice(torch.nn.functional.grid_sample):
        gradfix.grid_sample = grid_sample


def _mend_features(projector: ModuleType) -> None:
    if hasattr(projector, "timm"):
        projector.timm = importlib.import_module(f"{__package__}.efficientnet_lite")  # imports timm itself


def _mend_heads(heads: ModuleType) -> None:
    """Upstream's heads know several processes only, and those of a resumed run take gradients when they are copied."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        heads.CLHead.module = property(lambda self: self)  # as DistributedDataParallel has it
        heads.concat_all_gather = lambda tensor: tensor
    misc = importlib.import_module("torch_utils.misc")
    misc.copy_params_and_buffers = torch.no_grad()(misc.copy_params_and_buffers)


# Of a repository, where it has them.
_MODULES = {
    "torch_utils.ops.conv2d_gradfix": _switch_off,
    "torch_utils.ops.grid_sample_gradfix": _mend_grid_sample,
    "pg_modules.projector": _mend_features,
    "feature_networks.pretrained_builder": _mend_features,
    "training.contrastive_head": _mend_heads,
}


def _import_if_there(name: str) -> ModuleType | None:
    """A module of the repository; None where it has none of that name."""
    try:
        return importlib.import_module(name) if importlib.util.find_spec(name) else None
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:  # noqa: A002
    """Bilinear ``torch.nn.functional.grid_sample`` (zeros outside, corners not aligned) for old versions of torch.

    Differentiable any number of times with respect to input, in which it is linear, and once with respect to grid,
    as augmentations need.
    """
    return _GridSample.apply(input, grid)


_MODES = (0, 0, False)  # bilinear, zeros, corners not aligned


class _GridSample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, grid: Tensor) -> Tensor:  # noqa: A002
        ctx.save_for_backward(input, grid)
        return torch.ops.aten.grid_sampler_2d(input, grid, *_MODES)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        input, grid = ctx.saved_tensors  # noqa: A001
        return _GridSampleBackward.apply(grad, input, grid)


class _GridSampleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, input: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
        ctx.save_for_backward(grid)
        ctx.set_materialize_grads(False)
        return torch.ops.aten.grid_sampler_2d_backward(grad, input, grid, *_MODES, [True, True])

    @staticmethod
    def backward(ctx: Any, grad_input: Tensor | None, grad_grid: Tensor | None) -> tuple[Tensor | None, None, None]:
        (grid,) = ctx.saved_tensors
        if grad_grid is not None:
            raise RuntimeError(f"torch {torch.__version__} has no second derivative of grid_sample for its grid")
        if grid.requires_grad and grad_input is not None:
            raise RuntimeError(f"torch {torch.__version__} has no mixed derivative of grid_sample for its grid")
        return grid_sample(grad_input, grid) if grad_input is not None else None, None, None


def _differentiable_twice(function: Any) -> bool:
    image = torch.ones(1, 1, 1, 1, requires_grad=True)
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    y = function(image, torch.zeros(1, 1, 1, 2), align_corners=False)
    (grad,) = torch.autograd.grad(y, image, weight, create_graph=True)
    try:
        torch.autograd.grad(grad.sum(), weight)
    except RuntimeError:
        return False
    return True


def _mend_sampler() -> str | None:
    """Upstream's InfiniteSampler passes its data set to ``Sampler.__init__``, which took it until torch 2.x."""
    sampler = torch.utils.data.Sampler
    if sampler.__init__ is not object.__init__:
        return None
    sampler.__init__ = lambda self, data_source=None: None  # noqa: ARG005
    return "torch.utils.data.Sampler() takes the data set again, and ignores it"


def _mend_adam() -> str | None:
    """Upstream's options say betas=[0, 0.99], with a whole number."""
    adam = torch.optim.Adam
    try:
        adam([], betas=(0, 0.99))
    except ValueError as error:
        if "betas" not in str(error):
            return None
    original = adam.__init__

    @functools.wraps(original)
    def init(self: Any, params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), *args: Any, **kwargs: Any) -> None:
        original(self, params, lr, tuple(float(b) if isinstance(b, int) else b for b in betas), *args, **kwargs)

    adam.__init__ = init
    return "torch.optim.Adam() takes whole numbers for its betas again"


def _mend_parallel() -> str | None:
    """StyleGAN2-ADA and InsGen count on it that all ranks start from the buffers of rank 0.

    DistributedDataParallel does so no more with ``broadcast_buffers=False``. Every rank would keep its own constant
    noise and, after ``--resume``, its own average of w, and upstream's check would stop the run at a snapshot.
    """
    if not torch.distributed.is_available():
        return None
    from torch.distributed.utils import _sync_module_states

    if "broadcast_buffers" not in inspect.signature(_sync_module_states).parameters:
        return None
    parallel = torch.nn.parallel.DistributedDataParallel
    original = parallel.__init__

    @functools.wraps(original)
    def init(self: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("broadcast_buffers") is False:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, src=0, group=kwargs.get("process_group"))
        original(self, module, *args, **kwargs)

    parallel.__init__ = init
    return "DistributedDataParallel(broadcast_buffers=False) starts from the buffers of rank 0 again"


def _mend_pkg_resources() -> str | None:
    """StyleGAN3 takes ``parse_version`` from pkg_resources, which setuptools has dropped, and CLIP ``packaging``."""
    if importlib.util.find_spec("pkg_resources"):
        return None
    package = _stand_in("pkg_resources")
    package.parse_version = TorchVersion
    if importlib.util.find_spec("packaging"):
        importlib.import_module("packaging.version")
        package.packaging = sys.modules["packaging"]
    return "pkg_resources, which is not installed, has parse_version()"


def _mend_distutils() -> str | None:
    """``dnnlib.util`` takes ``strtobool`` from distutils, which left Python with 3.12."""
    if importlib.util.find_spec("distutils"):
        return None
    package = _stand_in("distutils")
    package.util = _stand_in("distutils.util")
    package.util.strtobool = _strtobool
    return "distutils, which is not installed, has util.strtobool()"


def _stand_in(name: str) -> ModuleType:
    """An empty package in sys.modules, with a spec, because other libraries look for it with find_spec."""
    module = sys.modules[name] = importlib.util.module_from_spec(ModuleSpec(name, None, is_package=True))
    return module


def _strtobool(text: str) -> int:
    for value, words in enumerate((("n", "no", "f", "false", "off", "0"), ("y", "yes", "t", "true", "on", "1"))):
        if text.lower() in words:
            return value
    raise ValueError(f"invalid truth value {text!r}")


def _mend_sqrtm() -> str | None:
    """The Frechet distance calls ``scipy.linalg.sqrtm(..., disp=False)`` for a pair; scipy 1.18 drops disp."""
    try:
        version = importlib.metadata.version("scipy")
    except importlib.metadata.PackageNotFoundError:
        return None
    if TorchVersion(version) < "1.18":
        return None
    import scipy.linalg

    original = scipy.linalg.sqrtm

    @functools.wraps(original)
    def sqrtm(A: Any, disp: bool = True, **kwargs: Any) -> Any:
        root = original(A, **kwargs)
        return root if disp else (root, float("nan"))

    scipy.linalg.sqrtm = sqrtm
    return "scipy.linalg.sqrtm() takes disp again; the error estimate beside its root is NaN"


def _mend_numpy() -> str | None:
    """Diffusion-GAN says ``np.int``; numpy 1.24 dropped such names of what Python has anyway."""
    import numpy

    gone = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}
    with warnings.catch_warnings():  # of the versions that have them still
        warnings.simplefilter("ignore")
        gone = {name: kind for name, kind in gone.items() if not hasattr(numpy, name)}
    vars(numpy).update(gone)
    return f"numpy.{', numpy.'.join(gone)} are those of Python again" if gone else None


def _mend_click() -> str | None:
    """Diffusion-InsGen's switch ``--mirror`` has the default 1, which click took for True."""
    if importlib.util.find_spec("click") is None:
        return None
    import click

    kind = type(click.BOOL)
    original = kind.convert
    try:
        original(click.BOOL, 1, None, None)
    except (AttributeError, click.BadParameter):
        kind.convert = lambda self, value, param, ctx: original(
            self, bool(value) if value in (0, 1) else value, param, ctx
        )
        return "switches of click take 0 and 1 again, as numbers"
    return None


def _mend_missing_cuda() -> str | None:
    """The training loops pin memory, time phases with CUDA events and read CUDA's memory statistics."""
    if torch.cuda.is_available():
        return None
    moved = Tensor.cuda
    Tensor.cuda = lambda self, device=None, *args, **kwargs: (
        self if device == torch.device("cpu") else moved(self, device, *args, **kwargs)
    )
    Tensor.pin_memory = lambda self, *args, **kwargs: self  # noqa: ARG005
    torch.cuda.Event = _HostEvent
    torch.cuda.current_stream = lambda device=None: None  # noqa: ARG005
    torch.cuda.reset_peak_memory_stats = lambda device=None: None  # noqa: ARG005
    return "without a CUDA device, pinning memory, CUDA events and CUDA's statistics work on the CPU or do nothing"


class _HostEvent(getattr(getattr(torch, "_streambase", None), "_EventBase", object)):
    """A CUDA event by the clock of the host; torch 2.4's compiler looks at what it is made of."""

    cuda_event = 1  # the handle, by which ProjectedGAN knows whether an event was recorded

    def __init__(self, **flags: bool) -> None:  # noqa: ARG002
        self.seconds = time.perf_counter()

    def record(self, stream: None = None) -> None:  # noqa: ARG002
        self.seconds = time.perf_counter()

    def wait(self, stream: None = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "_HostEvent") -> float:
        return 1000.0 * (end.seconds - self.seconds)


def _mend() -> Iterable[str]:
    for mend in (
        _mend_sampler,
        _mend_adam,
        _mend_parallel,
        _mend_pkg_resources,
        _mend_distutils,
        _mend_sqrtm,
        _mend_numpy,
        _mend_click,
        _mend_missing_cuda,
    ):
        if change := mend():
            yield change


if "changes" not in globals():  # a reload must not wrap what is wrapped
    changes = list(_mend())

if __name__ == "__main__":
    print("\n".join(changes) or f"Nothing needed mending with torch {torch.__version__}.")
