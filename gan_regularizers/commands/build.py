"""The command ``gan-regularizers build``."""

import os
import tempfile
from pathlib import Path

from ..io.errors import CommandError
from ..io.terminal import print_rows
from ..kernels import building, cubins
from ..kernels.nvrtc import NvrtcError
from ..ops.cuda import Devices
from ._options import Commands
from .info import describe


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("build", help="compile the kernels for this machine", description=build.__doc__)
    command.set_defaults(command=build)
    add = command.add_argument
    add("--cuda-archs", metavar="LIST", help="make CUDA images for these GPUs (compute capabilities such as 75,90)")
    add("--verbose", action="store_true", help="show what the compilers say")


def build(cuda_archs: str | None, verbose: bool) -> None:
    """Compile the kernels where the package is installed: the module for the Python that runs this, or CUDA images.

    Without options it compiles the module, which has the CPU's kernels and launches CUDA's. Those are compiled where
    they run, at their first use; with --cuda-archs this does it ahead of time for the GPUs named, and needs none.
    """
    try:
        architectures = building.cuda_architectures(cuda_archs)
    except ValueError as error:
        raise CommandError(str(error)) from error
    folder = building.PACKAGE / building.FOLDER
    if not os.access(folder, os.W_OK):
        raise CommandError(f"you may not write into {folder}, where the kernels belong")
    if cuda_archs is not None:
        _build_cubins(architectures)
        return
    if missing := building.missing_tools():
        raise CommandError(f"building needs {', '.join(missing)}; pip install cmake ninja pybind11")
    with tempfile.TemporaryDirectory(prefix="gan-regularizers-") as work:
        built = building.build(building.PACKAGE, Path(work), verbose)
    if built.missing:
        raise CommandError(f"no kernels were built: {built.missing}")
    print_rows({"kernels": describe(built)})
    if architectures:
        _build_cubins(architectures)


def _build_cubins(architectures: tuple[int, ...]) -> None:
    try:
        nvrtc = Devices.nvrtc()
        made = cubins.make_shipped(building.PACKAGE, architectures, nvrtc)
    except (NvrtcError, ImportError) as error:
        raise CommandError(str(error)) from error
    names = ", ".join(f"sm_{one}" for one in architectures)
    print_rows({"CUDA images": f"{names} by NVRTC {nvrtc}: {made} made, in {building.PACKAGE / cubins.SHIPPED}"})
