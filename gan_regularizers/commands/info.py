"""The command ``gan-regularizers info``."""

import importlib
import platform

import torch

from .. import __version__, ops
from ..io.terminal import print_rows
from ..kernels import building
from ..kernels.nvrtc import NvrtcError
from ..ops import native
from ._extras import EXTRAS, missing
from ._options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command, which has no options."""
    command = commands.add_parser("info", help="versions, devices, backend and why", description=info.__doc__)
    command.set_defaults(command=info)


def info() -> None:
    """Print versions, devices, kernels, and the backend with the reason for it."""
    rows = {
        "gan_regularizers": f"{__version__} ({building.PACKAGE})",
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "CPU": f"{torch.get_num_threads()} threads",
        "kernels": describe(building.report()),
        **_cuda(),
        "backend": "{} ({})".format(*_backend()),
        **{f"{name} extra": _extra(name) for name in EXTRAS},
    }
    print_rows(rows)


def describe(kernels: building.Kernels) -> str:
    """What there is of the kernel module, or why it is missing or does not load."""
    if kernels.missing:
        return f"missing: {kernels.missing}"
    built = f"built by {kernels.compiler}: {', '.join(kernels.instruction_sets)}".removesuffix(": ")
    try:
        module = importlib.import_module("gan_regularizers.kernels._kernels")
    except ImportError as error:
        return f"{built}, but does not load ({error}); run: gan-regularizers build"
    return f"{built} (this machine runs {module.cpu.instruction_sets()[-1]})"


def _cuda() -> dict[str, str]:
    """What the CUDA kernels need, and what each device has of it."""
    devices = native.cuda_devices
    if devices is None:
        return {"CUDA": torch.version.cuda or "none in this torch"}
    if torch.version.hip or not torch.backends.cuda.is_built():
        return {"CUDA": devices.without_devices()}
    driver = devices.driver()
    try:
        compiler = f"NVRTC {devices.nvrtc()} ({devices.nvrtc().path})"
    except NvrtcError as error:
        compiler = str(error)
    rows = {
        "CUDA": torch.version.cuda,
        "CUDA driver": driver if isinstance(driver, str) else f"for CUDA {driver // 1000}.{driver % 1000 // 10}",
        "CUDA compiler": compiler,
    }
    if reason := devices.without_devices():
        return {**rows, "CUDA kernels": f"none: {reason}"}
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        kernels = devices[index].missing or devices[index].cubins
        rows[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}; {kernels}"
    return rows


def _backend() -> tuple[str, str]:
    try:
        return ops.backend()
    except (RuntimeError, ValueError) as error:
        return "none", str(error)


def _extra(name: str) -> str:
    lacking = missing(name)
    return f"missing {', '.join(lacking)}; pip install 'gan-regularizers[{name}]'" if lacking else "installed"
