"""What a run's figures depend on beside its settings."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

from ... import __version__, ops
from ...io.errors import CommandError
from .cases import LIBRARIES


def describe(device: str) -> dict[str, object]:
    """The device and the host; load is the number of processes that ran in the last minute."""
    cuda = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "device": cuda or _cpu(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def versions(device: str) -> dict[str, str | None]:
    """Of the software; what is not there or not used is None."""
    return {
        "gan_regularizers": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "driver": _driver() if device == "cuda" else None,
        **{name: _installed(name) for name in LIBRARIES},
    }


def backend(device: str) -> tuple[str, str]:
    """The operator's backend on this device, and why it is."""
    try:
        return ops.backend(device)
    except (RuntimeError, ValueError) as error:
        raise CommandError(str(error)) from error


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return None if done.returncode else next(iter(done.stdout.splitlines()), None)
