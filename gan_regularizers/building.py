"""Builds the kernel modules with CMake and without torch, and records what was built or why it was not.

The one build path: ``setup.py`` takes it for a wheel or an editable install, ``gan-regularizers build`` for a package
that is installed. ``kernels.json`` beside the modules is the record.
"""

import hashlib
import importlib
import importlib.machinery
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .files import write_atomically

NAMES = ("cpu", "cuda")
PACKAGE = Path(__file__).parent

_ARCHITECTURES = "GAN_REGULARIZERS_CUDA_ARCHS"
_COMMAND = "gan-regularizers build"
_RECORD = "kernels.json"
_TOOLS = {"cmake": "CMAKE_BIN_DIR", "ninja": "BIN_DIR"}  # and where their Python packages say that the program lies
_COMPILERS = {"GNU": "GCC", "NVIDIA": "nvcc"}  # CMake's names, where people say another
_KNOWN_FAILURES = {
    "No CMAKE_CXX_COMPILER could be found": "no C++ compiler was found; install one (Debian, Ubuntu: apt install g++)",
    "Could NOT find Python": "the headers of Python were not found; install them (Debian, Ubuntu: apt install "
    "python3-dev)",
}
_ERROR = re.compile(r"error:|error [A-Z]+\d+:|nvcc fatal|undefined reference|cannot find -l")


@dataclass(frozen=True)
class Kernels:
    """One kernel module: what built it and for what, or why it is missing."""

    compiler: str = ""
    architectures: Sequence[str] = ()
    sources: str = ""  # the digest of csrc
    missing: str = ""  # a sentence that ends with the command that mends it; empty where the module is there


class _BuildError(Exception):
    """Why a module cannot be built."""


def build(package: Path, work: Path, cuda_archs: str | None = None, verbose: bool = False) -> dict[str, Kernels]:
    """Build what this machine can of the modules, for this Python; what it cannot stays as it was.

    Args:
        package: the folder of the package, where the modules and the record go.
        work: a folder for the compilers' output; what lies there is removed.
        cuda_archs: compute capabilities such as ``"75;90"`` in place of all; by default
            ``GAN_REGULARIZERS_CUDA_ARCHS``.
        verbose: show what CMake and the compilers say.

    Raises:
        ValueError: cuda_archs is no such list; nothing is built.
        OSError: package cannot be written.
    """
    options = {"cpu": [], "cuda": [f"-DGR_CUDA_ARCHS={_cuda_archs(cuda_archs)}"]}
    before, record = report(package), _read(package)
    outcome = {}
    for name in NAMES:
        module = package / _file_name(name)
        try:
            built, kernels = _build(name, _sources(package), work / name, options[name], verbose)
            write_atomically(module, built.read_bytes())
        except _BuildError as error:
            kernels = Kernels(missing=str(error))
        outcome[name] = kernels
        if before[name].missing or not kernels.missing:
            record[module.name] = {key: value for key, value in asdict(kernels).items() if value}
    write_atomically(package / _RECORD, f"{json.dumps(record, indent=2)}\n".encode())
    return outcome


def report(package: Path = PACKAGE) -> dict[str, Kernels]:
    """What a package has of each module for this Python, by the names ``"cpu"`` and ``"cuda"``.

    A module from other sources than the package's counts as missing: an update may leave one behind.
    """
    record, sources = _read(package), _digest(_sources(package))
    kernels = {}
    for name in NAMES:
        module = package / _file_name(name)
        entry = Kernels(**record.get(module.name, {}))
        if not entry.missing and not (entry.sources and module.exists()):
            entry = Kernels(missing=f"the kernels were never built for this Python; run: {_COMMAND}")
        elif not entry.missing and entry.sources != sources:
            entry = Kernels(missing=f"the kernels were built from other sources than these; run: {_COMMAND}")
        kernels[name] = entry
    return kernels


def missing_tools() -> list[str]:
    """Those of cmake, ninja and pybind11 that a build would not find."""
    return [name for name in _TOOLS if not _program(name)] + (["pybind11"] if not _pybind11() else [])


def _sources(package: Path) -> Path:
    """Where csrc lies: in an installed package, or beside it in a source tree."""
    inside = package / "csrc"
    return inside if inside.exists() else package.parent / "csrc"


def _digest(sources: Path) -> str:
    """A short digest of all sources, and of nothing else that lies there, such as an editor's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.glob("*") if path.suffix in (".h", ".cpp", ".cu", ".txt")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _build(name: str, sources: Path, work: Path, options: Sequence[str], verbose: bool) -> tuple[Path, Kernels]:
    if missing := missing_tools():
        raise _BuildError(f"{', '.join(missing)} not installed; run: pip install cmake ninja pybind11 && {_COMMAND}")
    if name == "cuda":
        options = [f"-DCMAKE_CUDA_COMPILER={_nvcc()}", *options]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    cmake = _program("cmake")
    configure = [cmake, "-S", str(sources), "-B", str(work), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={_pybind11()}"]
    configure += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-DGR_MODULE={name}", *options]
    log = _run(configure, sources, verbose)
    _run([cmake, "--build", str(work)], sources, verbose)
    module = work / _file_name(name)
    if not module.exists():
        raise _BuildError(f"CMake built no {module.name}; to see why, run: {_COMMAND} --verbose")
    return module, Kernels(_compiler(name, log), _architectures(work), _digest(sources))


def _run(command: Sequence[str], sources: Path, verbose: bool) -> str:
    log = ""
    try:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        ) as process:
            for line in process.stdout:
                log += line
                if verbose:
                    print(line, end="", flush=True)
    except OSError as error:
        raise _BuildError(f"{command[0]} does not run ({error.strerror}); mend it, then run: {_COMMAND}") from error
    if process.returncode:
        raise _BuildError(_reason(log.replace(f"{sources}{os.sep}", "")))
    return log


def _reason(log: str) -> str:
    """What failed, in one sentence, from the output of CMake and the compilers."""
    for sign, reason in _KNOWN_FAILURES.items():
        if sign in log:
            return f"{reason}, then run: {_COMMAND}"
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no output"]
    at = [i for i, line in enumerate(lines) if line.startswith("CMake Error at")]
    of_cmake = lines[at[0] + 1] if at and len(lines) > at[0] + 1 else lines[-1]
    error = next(filter(_ERROR.search, lines), of_cmake)
    return f"compiling failed: {error}; to see all of it, run: {_COMMAND} --verbose"


def _compiler(name: str, log: str) -> str:
    language = {"cpu": "CXX", "cuda": "CUDA"}[name]
    found = re.search(rf"The {language} compiler identification is (\S+) (\S+)", log)
    return f"{_COMPILERS.get(found[1], found[1])} {found[2]}" if found else "an unknown compiler"


def _architectures(work: Path) -> tuple[str, ...]:
    """Instruction sets of a CPU module, or nvcc's names of what a CUDA module holds, from the compilers' options."""
    commands = (work / "compile_commands.json").read_text(encoding="utf-8")
    found = re.findall(r"GR_INSTRUCTION_SET=(\w+)|,code=\[?([\w,]+)", commands)
    return tuple(dict.fromkeys(",".join(a or b for a, b in found).split(","))) if found else ()


def _cuda_archs(given: str | None) -> str:
    name, text = ("--cuda-archs", given) if given is not None else (_ARCHITECTURES, os.environ.get(_ARCHITECTURES, ""))
    archs = [arch for arch in re.split(r"[;,\s]+", text) if arch]
    if not all(re.fullmatch(r"\d{2,3}[af]?(-real|-virtual)?", arch) for arch in archs):
        raise ValueError(f"{name}: {text!r} is no list of compute capabilities such as 75;90")
    return ";".join(archs)


def _program(name: str) -> str | None:
    """The path of cmake or ninja: of its Python package, else on PATH."""
    try:
        folder = getattr(importlib.import_module(name), _TOOLS[name])
    except (ImportError, AttributeError):
        folder = ""
    return shutil.which(name, path=folder) or shutil.which(name)


def _pybind11() -> str | None:
    try:
        return importlib.import_module("pybind11").get_cmake_dir()
    except (ImportError, AttributeError):
        return None


def _nvcc() -> str:
    """The CUDA compiler: $CUDACXX, else nvcc in $CUDA_HOME, $CUDA_PATH, on PATH or in /usr/local/cuda."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [str(Path(home, "bin")) for home in homes]
    path = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"])
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc", path=path)
    if nvcc is None:
        raise _BuildError(f"no CUDA compiler (nvcc) was found; install the CUDA toolkit, then run: {_COMMAND}")
    return nvcc


def _file_name(name: str) -> str:
    return f"_kernels_{name}{importlib.machinery.EXTENSION_SUFFIXES[0]}"


def _read(package: Path) -> dict[str, dict]:
    """The record: the fields of ``Kernels`` by file name, since a tree may hold modules of several Pythons."""
    try:
        record = json.loads((package / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    # What another version wrote counts as nothing.
    known = {field.name for field in fields(Kernels)}
    entries = record.items() if isinstance(record, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and entry.keys() <= known}
