"""The images of the CUDA kernels: made by NVRTC, one for each kernel and architecture, and kept on disk.

An image is in the package, where ``gan-regularizers build --cuda-archs`` or a wheel put it, or in the cache, or it is
made and put there. Below either folder its place says what it was made of, by which compiler and for which GPUs:
``DIGEST OF THE SOURCES/nvrtc-13.0/sm_90/KERNEL.cubin``. A file ends with the SHA-256 of what stands before, by which it
is known to be whole and sound; who reads ELF files does not look behind their end.
"""

import functools
import hashlib
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..io.files import CACHE_VARIABLE, cache_folder, write_atomically
from .building import FOLDER, PACKAGE, file_name, sources
from .nvrtc import Nvrtc, NvrtcError

SHIPPED = Path(FOLDER, "cubins")  # in the package

_SOURCE = "kernels_cuda.cu"
_HEADERS = ("bits.h", "draw.h", "input_transform.h", "pass.h", "philox.h", "plan.h", "platform.h")
# The square root of Box-Muller may be off by an ulp; the exact one is a call. Subnormal numbers, which float32 images
# do not hold, would cost every logarithm and square root five instructions.
_OPTIONS = ("--std=c++17", "--prec-sqrt=false", "--ftz=true")
_EMBEDDED = (53, 62, 72, 87, 101, 110)  # run nothing but their own
_DIGEST_BYTES = hashlib.sha256().digest_size
_SAID_AFTER = 1.0  # seconds of compiling


def architecture_for(capability: int, architectures: tuple[int, ...]) -> int | None:
    """Of some architectures the best that a device of this capability runs: its own, or an older one of its kind."""
    runs = [
        known
        for known in architectures
        if known == capability
        or (known // 10 == capability // 10 and known < capability and not {known, capability} & set(_EMBEDDED))
    ]
    return max(runs, default=None)


class Cubins:
    """The images for one architecture of devices.

    Args:
        kernels: the line that makes each kernel, by name.
        capability: of the devices, such as 90.
        driver: the major version of CUDA that the driver is for; images of a newer one do not load.
        nvrtc: returns the compiler, or raises NvrtcError; called where it is needed.

    Attributes:
        origin: in words, where the images come from.
        seconds: spent on compiling.

    Raises:
        NvrtcError: there are none, and none can be made.
    """

    def __init__(
        self,
        kernels: Mapping[str, str],
        capability: int,
        driver: int,
        nvrtc: Callable[[], Nvrtc],
        package: Path = PACKAGE,
    ) -> None:
        self.seconds = 0.0
        self._kernels = kernels
        self._nvrtc = nvrtc
        self._said = False
        shipped = _shipped(package / SHIPPED / digest(kernels), driver)
        self._shipped = shipped.get(architecture_for(capability, tuple(shipped)))
        if self._shipped is not None and all(_read(self._shipped / _file_name(name)) for name in kernels):
            self.origin = f"{self._shipped.name} in {package / SHIPPED}"
            return
        self._shipped = None
        compiler = nvrtc()
        if compiler.version[0] > driver:
            raise NvrtcError(
                f"the NVIDIA driver is for CUDA {driver} and NVRTC of CUDA {compiler}; install a newer driver, or a "
                f"torch for CUDA {driver}"
            )
        architecture = architecture_for(capability, compiler.architectures)
        if architecture is None:
            known = ", ".join(f"sm_{known}" for known in compiler.architectures)
            raise NvrtcError(
                f"NVRTC {compiler} knows no architecture sm_{capability} (it knows {known}); install a torch for "
                f"{'an older' if capability < compiler.architectures[0] else 'a newer'} CUDA"
            )
        self._architecture = architecture
        cache = cache_folder()
        self._folder = None if cache is None else _folder(cache, kernels, compiler, architecture)
        self.origin = f"sm_{architecture} by NVRTC {compiler}, {f'kept in {cache}' if cache else 'kept nowhere'}"

    def __str__(self) -> str:
        return f"{self.origin}; compiling took {self.seconds:.1f} s" if self.seconds else self.origin

    def image(self, kernel: str) -> bytes:
        """The cubin of a kernel.

        Raises:
            NvrtcError: it cannot be compiled.
        """
        if self._shipped is not None:
            return _read(self._shipped / _file_name(kernel))
        path = self._folder and self._folder / _file_name(kernel)
        with lock:
            if path and (kept := _read(path)) is not None:
                return kept
            begun = time.perf_counter()
            image = compile_kernel(self._kernels[kernel], self._nvrtc(), self._architecture)
            self.seconds += time.perf_counter() - begun
            outcome = _keep(path, image)
            if self.seconds > _SAID_AFTER and not self._said:
                self._said = True
                print(f"gan_regularizers compiles its CUDA kernels at their first use; {outcome}", file=sys.stderr)
        return image


def make_shipped(package: Path, architectures: tuple[int, ...], nvrtc: Nvrtc) -> int:
    """``make`` in a package that has the kernel module.

    Raises:
        ImportError: the module is not there, or does not load.
    """
    path = package / FOLDER / file_name()
    if not path.exists():
        raise ImportError(f"CUDA images need the kernel module, and {path} is not there; run: gan-regularizers build")
    module = sys.modules.get("gan_regularizers.kernels._kernels")
    if module is None or Path(module.__file__) != path:  # a module cannot be loaded twice from one place
        spec = importlib.util.spec_from_file_location("_kernels", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return make(package / SHIPPED, module.cuda.kernels(), architectures, nvrtc)


def make(folder: Path, kernels: Mapping[str, str], architectures: tuple[int, ...], nvrtc: Nvrtc) -> int:
    """Fill a folder with the images of all kernels for some architectures; returns how many were compiled.

    Raises:
        NvrtcError: an architecture is none that the compiler knows, or a kernel does not compile.
        OSError: the folder cannot be written.
    """
    unknown = [f"sm_{one}" for one in architectures if one not in nvrtc.architectures]
    if unknown:
        known = ", ".join(map(str, nvrtc.architectures))
        raise NvrtcError(f"NVRTC {nvrtc} knows no {', '.join(unknown)}; it knows {known}")
    made = 0
    for architecture in architectures:
        place = _folder(folder, kernels, nvrtc, architecture)
        place.mkdir(parents=True, exist_ok=True)
        for name, line in kernels.items():
            if _read(place / _file_name(name)) is None:
                _write(place / _file_name(name), compile_kernel(line, nvrtc, architecture))
                made += 1
    return made


def compile_kernel(line: str, nvrtc: Nvrtc, architecture: int) -> bytes:
    """The cubin of the kernel that a line makes."""
    return nvrtc.compile(f'#include "{_SOURCE}"\n{line}\n', _texts(), architecture, _OPTIONS)


def digest(kernels: Mapping[str, str]) -> str:
    """A short digest of all that an image depends on beside the compiler and the architecture."""
    return hashlib.sha256(repr((_texts(), sorted(kernels.items()), _OPTIONS)).encode()).hexdigest()[:16]


@functools.cache
def _texts() -> dict[str, str]:
    return {name: (sources() / name).read_text(encoding="utf-8") for name in (_SOURCE, *_HEADERS)}


def _file_name(kernel: str) -> str:
    return f"{kernel}.cubin"


def _folder(root: Path, kernels: Mapping[str, str], nvrtc: Nvrtc, architecture: int) -> Path:
    return root / digest(kernels) / f"nvrtc-{nvrtc}" / f"sm_{architecture}"


def _shipped(folder: Path, driver: int) -> dict[int, Path]:
    """The folders of images that a driver loads, by architecture; of several compilers' the newest."""
    found = {}
    for place in folder.glob("nvrtc-*/sm_*"):
        major, minor = map(int, re.findall(r"\d+", place.parent.name))
        if major <= driver:
            architecture = int(place.name.removeprefix("sm_"))
            found[architecture] = max(found.get(architecture, ((0, 0), place)), ((major, minor), place))
    return {architecture: place for architecture, (_, place) in found.items()}


def _keep(path: Path | None, image: bytes) -> str:
    """Write an image if that can be; in words, what became of it."""
    if path is None:
        return f"there is no home to keep them in, which {CACHE_VARIABLE} would give them"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, image)
    except OSError as error:  # the next process compiles again
        return f"they cannot be kept in {cache_folder()} ({error.strerror})"
    return f"they are kept in {cache_folder()}"


def _write(path: Path, image: bytes) -> None:
    write_atomically(path, image + hashlib.sha256(image).digest())


def _read(path: Path) -> bytes | None:
    """An image from disk; None where there is none, or not the whole of one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    image = content[:-_DIGEST_BYTES]
    return image if image and hashlib.sha256(image).digest() == content[-_DIGEST_BYTES:] else None


# One thread at a time compiles, or finds out whether a device runs the kernels. A forked process has no other threads.
lock = threading.RLock()


def _new_lock() -> None:
    global lock
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
