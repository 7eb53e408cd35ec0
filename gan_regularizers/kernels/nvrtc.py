"""NVRTC, the compiler of device code that every CUDA build of torch brings: found, loaded and asked for cubins.

It needs no toolkit, no headers, no driver and no GPU. Nothing here imports torch.
"""

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

VARIABLE = "GAN_REGULARIZERS_NVRTC"

_WINDOWS = sys.platform == "win32"
_LIBRARIES = "nvrtc64_*_0.dll" if _WINDOWS else "libnvrtc[.-]*so*"
_BUILTINS = "nvrtc-builtins64_*.dll" if _WINDOWS else "libnvrtc-builtins*.so*"
_SONAMES = () if _WINDOWS else ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2")  # for the system's loader
# Below a folder of sys.path, of the toolkit and of conda.
_PACKAGES = ("nvidia/cu*/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cu*/bin", "nvidia/cu*/bin/*", "nvidia/cuda_nvrtc/bin")
_TOOLKIT = ("lib64", "lib", "targets/*/lib", "bin", "bin/x64")


class NvrtcError(Exception):
    """Why there is no NVRTC, or no cubin of it; a sentence that says what to do."""


class Nvrtc:
    """One NVRTC.

    Attributes:
        path: of the library.
        version: major and minor, such as (13, 0).
        architectures: the compute capabilities that it compiles for, such as 75 and 90, in rising order.

    Raises:
        NvrtcError: the library does not load, or is older than 11.2.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # The library asks for this one by its bare name, which the loader finds once it is loaded.
            for builtins in path.parent.glob(_BUILTINS) if path.is_absolute() else ():
                if ".alt." not in builtins.name:
                    ctypes.CDLL(str(builtins))
            self._library = ctypes.CDLL(str(path))
            major, minor = ctypes.c_int(), ctypes.c_int()
            self._call("Version", ctypes.byref(major), ctypes.byref(minor))
            self.version = major.value, minor.value
            count = ctypes.c_int()
            self._call("GetNumSupportedArchs", ctypes.byref(count))
            architectures = (ctypes.c_int * count.value)()
            self._call("GetSupportedArchs", architectures)
        except (OSError, AttributeError) as error:
            raise NvrtcError(f"{path} is no NVRTC that can be used ({error})") from error
        self.architectures = tuple(sorted(architectures))

    def compile(self, source: str, headers: Mapping[str, str], architecture: int, options: Sequence[str] = ()) -> bytes:
        """A cubin of a source for one architecture.

        Args:
            source: CUDA C++.
            headers: the text of what it includes, by name.
            architecture: a compute capability such as 90.
            options: of NVRTC.

        Raises:
            NvrtcError: it does not compile; the message has the compiler's first error.
        """
        names = [name.encode() for name in headers]
        texts = [text.encode() for text in headers.values()]
        arguments = [option.encode() for option in (f"--gpu-architecture=sm_{architecture}", *options)]
        program = ctypes.c_void_p()
        lists = (_strings(texts), _strings(names))
        self._call("CreateProgram", ctypes.byref(program), source.encode(), None, len(names), *lists)
        try:
            code = self._library.nvrtcCompileProgram(program, len(arguments), _strings(arguments))
            if code:
                log = self._get("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
                raise NvrtcError(f"NVRTC {self} failed for sm_{architecture}: {_first_error(log) or self._error(code)}")
            return self._get("CUBIN", program)
        finally:
            self._call("DestroyProgram", ctypes.byref(program))

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, f"nvrtc{name}")(*arguments):
            raise NvrtcError(f"NVRTC at {self.path}: nvrtc{name} failed: {self._error(code)}")

    def _get(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, content)
        return content.raw

    def _error(self, code: int) -> str:
        text = self._library.nvrtcGetErrorString
        text.restype = ctypes.c_char_p
        return text(code).decode()


@functools.cache
def find(major: int | None = None) -> Nvrtc:
    """The NVRTC of a major version of CUDA, or the first one that there is.

    It is looked for, in this order: where ``GAN_REGULARIZERS_NVRTC`` says (a library, or the folder of one), in the
    ``nvidia`` packages that torch depends on, in torch itself, in conda's environment, in ``CUDA_HOME``, ``CUDA_PATH``
    and ``/usr/local/cuda``, and where the system's loader looks.

    Raises:
        NvrtcError: there is none.
    """
    seen = []
    for path in _candidates():
        try:
            found = Nvrtc(path)
        except NvrtcError as error:
            if path.is_absolute():
                seen.append(str(error))
            continue
        if major in (None, found.version[0]):
            return found
        seen.append(f"{path} is of CUDA {found}")
    wanted = "NVRTC" if major is None else f"NVRTC of CUDA {major}"
    package = f"nvidia-cuda-nvrtc-cu{major}" if major in (11, 12) else "nvidia-cuda-nvrtc"
    version = "" if major in (None, 11, 12) else f"=={major}.*"
    remedy = f"let {VARIABLE} name one" if os.environ.get(VARIABLE) else f"run: pip install '{package}{version}'"
    said = f" ({'; '.join(seen)})" if seen else ""
    raise NvrtcError(f"no {wanted} was found, which compiles the kernels{said}; {remedy}")


def _candidates() -> Iterator[Path]:
    given = os.environ.get(VARIABLE)
    if given and not Path(given).is_dir():
        yield Path(given).absolute()
        return
    known = set()
    for folder in [Path(given)] if given else _folders():
        for path in sorted(folder.absolute().glob(_LIBRARIES)):
            # "alt" is a variant for old C++ runtimes; a name without a version is a link to another.
            if path.resolve() not in known and "builtins" not in path.name and ".alt." not in path.name:
                known.add(path.resolve())
                yield path
    if not given:
        yield from map(Path, _SONAMES)


def _folders() -> Iterator[Path]:
    for entry in map(Path, dict.fromkeys(sys.path)):
        for pattern in _PACKAGES:
            yield from sorted(entry.glob(pattern))
    spec = importlib.util.find_spec("torch")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location, "lib")
    prefix = Path(sys.prefix)
    yield prefix / ("Library/bin" if _WINDOWS else "lib")
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for home in map(Path, (*homes, "/usr/local/cuda")):
        for pattern in _TOOLKIT:
            yield from sorted(home.glob(pattern))


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


def _strings(values: Sequence[bytes]) -> ctypes.Array:
    return (ctypes.c_char_p * len(values))(*values)
