"""Build what a release uploads: the sdist and, on any x86-64 Linux, wheels for glibc 2.17 on x86-64 and aarch64.

    pip install '.[release]'
    python .ci/wheels.py DIST                                  # for every python3.X on PATH
    python .ci/wheels.py DIST --python /opt/python3.12/bin/python3.12 --headers include/python3.14

This Python builds all of them, from the sdist, with Zig's clang and libc++. Of another Python the headers are enough: a
toolchain file tells CMake where they lie.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import ziglang

ROOT = Path(__file__).resolve().parents[1]
MACHINES = ("x86_64", "aarch64")
GLIBC = "2.17"

# Both ways of CMake to call a compiler, for a check and for a module, find the libc++ that one of them made.
TOOLCHAIN = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR {machine})
set(CMAKE_CXX_COMPILER "{zig}")
set(CMAKE_CXX_COMPILER_ARG1 "{arguments}")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-s -Wl,--version-script={exports}")
set(Python_INCLUDE_DIR "{headers}")
set(PYTHON_MODULE_EXTENSION {suffix})
set(PYTHON_MODULE_DEBUG_POSTFIX "")
set(PYTHON_IS_DEBUG 0)
"""
# What libc++ and pybind11 would export, another module of the process could take for its own.
EXPORTS = "{ global: PyInit_*; local: *; };\n"

SIZED = ("short", "int", "long", "long long", "float", "double", "void*", "size_t", "time_t", "off_t", "wchar_t")
SIZES = f"""
#include <pyconfig.h>
#include <ctime>
#include <sys/types.h>
{"".join(f"static_assert(SIZEOF_{t.replace(' ', '_').replace('*', '_P').upper()} == sizeof({t}));" for t in SIZED)}
"""


def main() -> int:
    """Return 1 where a wheel cannot be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="the folder for the wheels and the sdist")
    parser.add_argument("--python", action="append", help="an interpreter; by default every python3.X on PATH")
    parser.add_argument("--headers", action="append", default=[], type=Path, help="a folder with Python.h")
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=MACHINES)
    options = parser.parse_args()
    pythons = {headers_of(python): python for python in options.python or pythons_on_path()}
    dist = options.dist.resolve()
    dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
            os.environ.setdefault(name, str(work / "zig"))
        os.environ.setdefault("SOURCE_DATE_EPOCH", run("git", "log", "-1", "--format=%ct").strip())
        run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", dist, ROOT)
        source = unpacked(max(dist.glob("*.tar.gz"), key=os.path.getmtime), work)
        for machine in options.machines:
            for headers in [*pythons, *options.headers]:
                wheel = build(source, headers, machine, work, dist)
                tag = platform_tag(wheel)
                print(f"{wheel.stat().st_size / 1024:5.0f} KiB  {wheel.name}, by its symbols {tag}", flush=True)
                if tag not in wheel.name:
                    return 1
                if headers in pythons and machine == platform.machine():
                    print(f"{'':11}loads, with {loaded(pythons[headers], wheel, work)}", flush=True)
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    return 0


def pythons_on_path() -> list[str]:
    """Every python3.X that runs and is not too old, the first of each name."""
    oldest = int(re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())[1])
    found = {
        program.name: str(program)
        for folder in reversed(os.get_exec_path())
        for program in Path(folder).glob("python3.*")
        if re.fullmatch(r"python3\.\d+", program.name) and int(program.suffix[1:]) >= oldest
    }
    # A shim may stand for a Python that is not there.
    runs = {name: subprocess.run([path, "-c", ""], capture_output=True).returncode == 0 for name, path in found.items()}
    return [found[name] for name in sorted(found, key=lambda name: int(name[8:])) if runs[name]]


def headers_of(python: str) -> Path:
    """Where an interpreter's Python.h lies."""
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('include'))").strip())


def build(source: Path, headers: Path, machine: str, work: Path, dist: Path) -> Path:
    """One wheel, for the Python of the headers."""
    if not (headers / "Python.h").exists():
        sys.exit(f"{headers}: no Python.h is there (Debian, Ubuntu: apt install python3-dev)")
    major, minor = re.search(r'PY_VERSION\s+"(\d+)\.(\d+)', (headers / "patchlevel.h").read_text()).groups()
    python, place = f"cp{major}{minor}", work / f"{major}.{minor}-{machine}"
    zig = Path(ziglang.__file__).parent / "zig"
    arguments = ["c++", "-target", f"{machine}-linux-gnu.{GLIBC}", "-O3"]
    own_headers = copied(headers, machine, place / "include")
    (place / "sizes.cpp").write_text(SIZES)
    run(zig, *arguments, "-c", f"-I{own_headers}", place / "sizes.cpp", "-o", place / "sizes.o")
    (place / "exports.map").write_text(EXPORTS)
    suffix = f".cpython-{major}{minor}-{machine}-linux-gnu.so"
    text = TOOLCHAIN.format(
        machine=machine,
        zig=zig,
        arguments=" ".join(arguments),
        exports=place / "exports.map",
        headers=own_headers,
        suffix=suffix,
    )
    (place / "toolchain.cmake").write_text(text)
    environment = {"CMAKE_TOOLCHAIN_FILE": str(place / "toolchain.cmake"), "SETUPTOOLS_EXT_SUFFIX": suffix}
    log = run(*(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", place, source), **environment)
    if warnings := [line for line in log.splitlines() if ": warning:" in line]:
        sys.exit("\n".join(warnings))
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        record = json.loads(archive.read("gan_regularizers/kernels/kernels.json"))
    if missing := [entry["missing"] for entry in record.values() if "missing" in entry]:
        sys.exit(f"{log}\n{python} on {machine}: {missing[0]}")
    # This Python gave the wheel its own tags.
    platforms = f"manylinux2014_{machine}.manylinux_{GLIBC.replace('.', '_')}_{machine}"
    tags = ("--python-tag", python, "--abi-tag", python, "--platform-tag", platforms)
    name = run(sys.executable, "-m", "wheel", "tags", *tags, wheel).split()[-1]
    return Path(shutil.move(place / name, dist / name))


def platform_tag(wheel: Path) -> str:
    """What the symbols of a wheel's modules allow it to be called."""
    shown = run(sys.executable, "-m", "auditwheel", "show", wheel)
    return re.search(r'following platform tag:\s+"(\w+)"', shown)[1]


def loaded(python: str, wheel: Path, work: Path) -> str:
    """What the wheel's module says to the Python that it is for."""
    with zipfile.ZipFile(wheel) as archive:
        (module,) = [name for name in archive.namelist() if "/_kernels." in name]
        archive.extract(module, work)
    script = "import _kernels; print(*_kernels.cpu.instruction_sets())"
    return run(python, "-c", script, PYTHONPATH=str((work / module).parent)).strip()


def copied(headers: Path, machine: str, to: Path) -> Path:
    """A copy of the headers. Debian has one pyconfig.h per machine beside them; that of x86-64 serves for all."""
    shutil.copytree(headers, to)
    own = [headers.parent / f"{name}-linux-gnu" / headers.name / "pyconfig.h" for name in (machine, "x86_64")]
    for path in [path for path in own if path.exists()][:1]:
        shutil.copy(path, to)
    if re.search(r"^#define Py_(GIL_DISABLED|DEBUG) 1", (to / "pyconfig.h").read_text(), re.MULTILINE):
        sys.exit(f"{headers}: they are of a free-threaded or debug build, which has other wheels")
    return to


def unpacked(sdist: Path, to: Path) -> Path:
    """The folder that an sdist unpacks to."""
    with tarfile.open(sdist) as archive:
        archive.extractall(to, filter="data")
    return to / sdist.name.removesuffix(".tar.gz")


def run(*command: str | Path, **environment: str) -> str:
    """What a command says, or the end of all where it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: exit status {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
