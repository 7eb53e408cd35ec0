"""Builds the kernel module with CMake and without torch, and records what was built or why it was not.

The one build path: ``setup.py`` takes it for a wheel or an editable install, ``gan-regularizers build`` for a package
that is installed. ``kernels.json`` beside the module is the record.
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

from ..io.files import write_atomically

PACKAGE = Path(__file__).parent.parent
FOLDER = "kernels"  # of the package, where the module and the record go

ARCHITECTURES = "GAN_REGULARIZERS_CUDA_ARCHS"
_COMMAND = "gan-regularizers build"
_RECORD = "kernels.json"
_TOOLS = {"cmake": "CMAKE_BIN_DIR", "ninja": "BIN_DIR"}  # and where their Python packages say that the program lies
_COMPILERS = {"GNU": "GCC"}  # CMake's names, where people say another
_KNOWN_FAILURES = {
    "No CMAKE_CXX_COMPILER could be found": "no C++ compiler was found; install one (Debian, Ubuntu: apt install g++)",
    "Could NOT find Python": "the headers of Python were not found; install them (Debian, Ubuntu: apt install "
    "python3-dev)",
}
_ERROR = re.compile(r"error:|error [A-Z]+\d+:|undefined reference|cannot find -l")


@dataclass(frozen=True)
class Kernels:
    """The kernel module: what built it and for what, or why it is missing."""

    compiler: str = ""
    instruction_sets: Sequence[str] = ()
    sources: str = ""  # the digest of csrc
    missing: str = ""  # a sentence that ends with the command that mends it; empty where the module is there


class _BuildError(Exception):
    """Why a module cannot be built."""


def build(package: Path, work: Path, verbose: bool = False) -> Kernels:
    """Build the module for this Python; if that fails, one of these sources stays as it was.

    Args:
        package: the folder of the package.
        work: a folder for the compilers' output; what lies there is removed.
        verbose: show what CMake and the compilers say.

    Raises:
        OSError: package cannot be written.
    """
    before, record = report(package), _read(package)
    module = package / FOLDER / file_name()
    try:
        built, kernels = _build(sources(package), work, verbose)
        write_atomically(module, built.read_bytes())
    except _BuildError as error:
        kernels = Kernels(missing=str(error))
    if before.missing or not kernels.missing:
        record[module.name] = {key: value for key, value in asdict(kernels).items() if value}
    write_atomically(module.with_name(_RECORD), f"{json.dumps(record, indent=2)}\n".encode())
    return kernels


def report(package: Path = PACKAGE) -> Kernels:
    """What a package has of the module for this Python.

    A module from other sources than the package's counts as missing: an update may leave one behind.
    """
    module = package / FOLDER / file_name()
    kernels = Kernels(**_read(package).get(module.name, {}))
    if not kernels.missing and not (kernels.sources and module.exists()):
        return Kernels(missing=f"the kernels were never built for this Python; run: {_COMMAND}")
    if not kernels.missing and kernels.sources != _digest(sources(package)):
        return Kernels(missing=f"the kernels were built from other sources than these; run: {_COMMAND}")
    return kernels


def cuda_architectures(given: str | None = None) -> tuple[int, ...]:
    """Compute capabilities from a list such as ``"75;90"``; by default from ``GAN_REGULARIZERS_CUDA_ARCHS``.

    Raises:
        ValueError: it is no such list.
    """
    name, text = (ARCHITECTURES, os.environ.get(ARCHITECTURES, "")) if given is None else ("--cuda-archs", given)
    architectures = [one for one in re.split(r"[;,\s]+", text) if one]
    if not all(re.fullmatch(r"\d{2,3}", one) for one in architectures) or (given is not None and not architectures):
        raise ValueError(f"{name}: {text!r} is no list of compute capabilities such as 75;90")
    return tuple(sorted(set(map(int, architectures))))


def missing_tools() -> list[str]:
    """Those of cmake, ninja and pybind11 that a build would not find."""
    return [name for name in _TOOLS if not _program(name)] + (["pybind11"] if not _pybind11() else [])


def sources(package: Path = PACKAGE) -> Path:
    """Where csrc lies: in an installed package, or beside it in a source tree."""
    inside = package / "csrc"
    return inside if inside.exists() else package.parent / "csrc"


def _digest(sources: Path) -> str:
    """A short digest of what the module is made of, and of nothing else that lies there, such as an editor's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.glob("*") if path.suffix in (".h", ".cpp", ".txt")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _build(sources: Path, work: Path, verbose: bool) -> tuple[Path, Kernels]:
    if missing := missing_tools():
        raise _BuildError(f"{', '.join(missing)} not installed; run: pip install cmake ninja pybind11 && {_COMMAND}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    cmake = _program("cmake")
    configure = [cmake, "-S", str(sources), "-B", str(work), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={_pybind11()}"]
    configure += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    log = _run(configure, sources, verbose)
    _run([cmake, "--build", str(work)], sources, verbose)
    module = work / file_name()
    if not module.exists():
        raise _BuildError(f"CMake built no {module.name}; to see why, run: {_COMMAND} --verbose")
    return module, Kernels(_compiler(log), _instruction_sets(work), _digest(sources))


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


def _compiler(log: str) -> str:
    found = re.search(r"The CXX compiler identification is (\S+) (\S+)", log)
    return f"{_COMPILERS.get(found[1], found[1])} {found[2]}" if found else "an unknown compiler"


def _instruction_sets(work: Path) -> tuple[str, ...]:
    commands = (work / "compile_commands.json").read_text(encoding="utf-8")
    return tuple(dict.fromkeys(re.findall(r"GR_INSTRUCTION_SET=(\w+)", commands)))


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


def file_name() -> str:
    """What the module is called on this platform and Python, or on that of a cross build, as setuptools is told it."""
    return f"_kernels{os.environ.get('SETUPTOOLS_EXT_SUFFIX') or importlib.machinery.EXTENSION_SUFFIXES[0]}"


def _read(package: Path) -> dict[str, dict]:
    """The record: the fields of ``Kernels`` by file name, since a tree may hold the modules of several Pythons."""
    try:
        record = json.loads((package / FOLDER / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    # What another version wrote counts as nothing.
    known = {field.name for field in fields(Kernels)}
    entries = record.items() if isinstance(record, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and entry.keys() <= known}
