"""The CUDA launcher on a CPU: a copy of the kernel module, and a stand-in of CUDA's driver that it opens."""

import ctypes
import importlib
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

from gan_regularizers.kernels import building

_SOURCES = Path(__file__).parent / "cuda_emulation"
_CSRC = building.sources()
COMPILER = shutil.which("g++")


class StandIn:
    """CUDA's driver as ``cuda_emulation/driver.cpp`` has it.

    Attributes:
        path: of the library, to be opened in the driver's place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.stand_in_count.restype = self._library.stand_in_contexts.restype = ctypes.c_int64
        self._library.stand_in_sum_of_halves.restype = ctypes.c_float

    def set(self, name: str, value: int) -> None:
        """What the driver says (``version``, ``multiprocessors``), a function's error, or that a graph is captured.

        It is by the stream that is asked for (``capturing``), or by another thread's (``captured elsewhere``).
        """
        self._library.stand_in_set(name.encode(), ctypes.c_int64(value))

    def count(self, name: str) -> int:
        """How often a function was called, or ``"launches on 0"``, or the last ``"stream of cuLaunchKernel"``."""
        return self._library.stand_in_count(name.encode())

    def contexts(self) -> int:
        """How many contexts this thread has pushed and not popped."""
        return self._library.stand_in_contexts()

    def capture_mode(self) -> int:
        """That of this thread: 0 is global, as a thread begins."""
        return self._library.stand_in_capture_mode()

    def run_last_blocks(self, count: int) -> None:
        """Of later launches only so many blocks run, those of the highest indices."""
        self._library.stand_in_run_last_blocks(ctypes.c_int64(count))

    def normal_block(self, seed: int, block: int) -> list[float]:
        """The normals of elements 4 block .. 4 block + 3."""
        normals = (ctypes.c_float * 4)()
        self._library.stand_in_normal_block(ctypes.c_uint64(seed), ctypes.c_uint64(block), normals)
        return list(normals)

    def sum_of_halves(self, address: int, elements: int, begin: int, end: int) -> float:
        """The sum of elements [begin, end) of a sample in float16."""
        numbers = map(ctypes.c_int64, (elements, begin, end))
        return self._library.stand_in_sum_of_halves(ctypes.c_void_p(address), *numbers)


def build_stand_in(folder: Path, kernels: dict[str, str]) -> Path:
    """Compile the stand-in with these kernels."""
    (folder / "kernels.inc").write_text("\n".join(kernels.values()) + "\n")
    path = folder / "libcuda_stand_in.so"
    command = [COMPILER, "-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
    command += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
    # A GPU faults on addresses that are not aligned; x86 does not.
    command += ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    command += [f"-I{include}" for include in (_SOURCES, _CSRC, folder)]
    subprocess.run([*command, _SOURCES / "driver.cpp", "-o", path], check=True)
    return path


def own_kernels(folder: Path) -> ModuleType:
    """The kernel module once more, with a driver and images of its own, as the CUDA half of it."""
    path = shutil.copy(importlib.import_module("gan_regularizers.kernels._kernels").__file__, folder)
    spec = importlib.util.spec_from_file_location("_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cuda


def text_image(kernel: str, _device: int) -> bytes:
    """What the stand-in takes for the image of a kernel."""
    return f"gan_regularizers_{kernel}\0".encode()
