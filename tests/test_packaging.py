"""The build of the kernels: sdist, wheel, machines without compilers, and what people are told."""

import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from gan_regularizers.commands import main
from gan_regularizers.kernels import building, cubins
from gan_regularizers.kernels.nvrtc import NvrtcError, find

ROOT = Path(__file__).parent.parent
try:
    NVRTC = find()
except NvrtcError:
    NVRTC = None
FILES = tuple("CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE MANIFEST.in README.md pyproject.toml setup.py".split())
SOURCES = (*FILES, "csrc", "gan_regularizers", "patches", "tests")
NO_COMPILERS = {"PATH": "", "CXX": ""}


def tree(folder: Path) -> Path:
    """A copy of the sources, without what was built in place."""
    folder.mkdir(exist_ok=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            built = shutil.ignore_patterns("__pycache__", "*.so", "kernels.json", cubins.SHIPPED.name)
            shutil.copytree(ROOT / name, folder / name, ignore=built)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Python with arguments, and an environment in which an empty value unsets a variable."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    env = {name: value for name, value in env.items() if value or name == "PATH"}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def pip_wheel(source: Path, out: Path, **environment: str) -> subprocess.CompletedProcess:
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "--wheel-dir")
    return run("-m", "pip", "wheel", *options, out, source, **environment)


def wheel_of(source: Path, out: Path, **environment: str) -> Path:
    done = pip_wheel(source, out, **environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def install(wheel: Path, target: Path) -> None:
    done = run("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    assert done.returncode == 0, done.stderr


def run_in(target: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Python with the package of a folder, without the hooks of editable installs, which would lend their kernels."""
    path = os.pathsep.join([str(target), *filter(None, sys.path)])
    return run("-S", *arguments, cwd=target, PYTHONPATH=path, **environment)


def info(target: Path) -> list[str]:
    done = run_in(target, "-m", "gan_regularizers", "info")
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    return done.stdout.splitlines()


def record(wheel: Path) -> dict[str, dict]:
    with zipfile.ZipFile(wheel) as archive:
        return json.loads(archive.read("gan_regularizers/kernels/kernels.json"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own for the command, where no compiler is found."""
    folder = tmp_path / "gan_regularizers"
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    (folder / building.FOLDER).mkdir()
    monkeypatch.setattr(building, "PACKAGE", folder)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", NO_COMPILERS["PATH"])
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tree(tmp_path_factory.mktemp("sdist"))
    done = run("-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=folder)
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel that this machine builds, from the sdist, with images for one kind of GPU where there is NVRTC."""
    return wheel_of(sdist, tmp_path_factory.mktemp("wheel"), **({"GAN_REGULARIZERS_CUDA_ARCHS": "90"} if NVRTC else {}))


def test_the_sdist_has_all_sources_and_nothing_that_was_built(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {path.relative_to(ROOT) for part in ("csrc", "patches", "tests") for path in (ROOT / part).rglob("*.*")}
    files |= {path.relative_to(ROOT) for path in (ROOT / "gan_regularizers").rglob("*.py*")} | set(map(Path, FILES))
    assert {path.as_posix() for path in files if "__pycache__" not in path.parts} <= names
    assert "gan_regularizers/py.typed" in names
    assert not [name for name in names if name.endswith((".so", ".pyc", "kernels.json"))]


def test_the_wheel_carries_kernels_and_sources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert not wheel.stem.endswith("-any")
    carried = {path.relative_to(ROOT) for part in ("csrc", "patches") for path in (ROOT / part).rglob("*.*")}
    assert {f"gan_regularizers/{path.as_posix()}" for path in carried} <= names
    assert "gan_regularizers/py.typed" in names
    assert not [name for name in names if "test" in name]
    built = [name for name, entry in record(wheel).items() if "missing" not in entry]
    assert any(name.startswith("_kernels.") for name in built)
    assert {f"gan_regularizers/kernels/{name}" for name in built} == {name for name in names if "/_kernels." in name}


def test_the_wheel_runs_its_kernels(wheel, tmp_path):
    install(wheel, tmp_path)
    (line,) = (line for line in info(tmp_path) if line.startswith("kernels"))
    assert line.startswith("kernels           built by ")
    assert "baseline" in line
    assert "(this machine runs " in line


@pytest.mark.skipif(not NVRTC, reason="no NVRTC")
def test_the_wheel_carries_the_images_that_were_asked_for(wheel, tmp_path):
    install(wheel, tmp_path)
    (folder,) = (tmp_path / "gan_regularizers" / cubins.SHIPPED).glob("*/nvrtc-*/sm_*")
    assert folder.name == "sm_90"
    script = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; import types\n"
        "package = sys.modules['gan_regularizers'] = types.ModuleType('gan_regularizers')\n"
        "package.__path__ = ['gan_regularizers']\n"
        "from gan_regularizers.kernels import _kernels, cubins\n"
        "images = cubins.Cubins(_kernels.cuda.kernels(), 90, 13, None)\n"
        "print(images.origin, all(images.image(kernel)[:4] == b'\\x7fELF' for kernel in _kernels.cuda.kernels()))"
    )
    done = run_in(tmp_path, "-c", script)
    assert done.stdout == f"sm_90 in {folder.parents[2]} True\n", done.stderr


def test_the_wheel_has_its_patches(wheel, tmp_path):
    install(wheel, tmp_path)
    done = run_in(tmp_path, "-m", "gan_regularizers", "patch", "--list")
    assert done.returncode == 0, done.stderr
    commits = done.stdout.partition("Commits that have patch files:\n")[2]
    assert [line.split()[0] for line in commits.splitlines()] == sorted(path.name for path in ROOT.glob("patches/*"))


def test_a_machine_without_compilers_gets_a_wheel_and_the_reason(tmp_path):
    target = tmp_path / "installed"
    install(wheel_of(tree(tmp_path / "tree"), tmp_path / "wheel", **NO_COMPILERS), target)
    reason = (
        "no C++ compiler was found; install one (Debian, Ubuntu: apt install g++), then run: gan-regularizers build"
    )
    rows = info(target)
    assert f"kernels           missing: {reason}" in rows
    assert f"backend           reference ({reason})" in rows

    script = "import torch, gan_regularizers as g; [g.DiffAugment()(torch.zeros(1, 3, 8, 8)) for _ in range(2)]"
    auto = run_in(target, "-c", script, GAN_REGULARIZERS_BACKEND="auto")
    assert auto.returncode == 0
    assert auto.stderr.count(f"BackendWarning: gan_regularizers runs without its fused kernels: {reason}\n") == 1
    native = run_in(target, "-c", script, GAN_REGULARIZERS_BACKEND="native")
    assert native.returncode == 1
    assert native.stderr.splitlines()[-1] == f"RuntimeError: GAN_REGULARIZERS_BACKEND: 'native', but {reason}"


def test_sources_that_do_not_compile_give_a_wheel_and_the_line(tmp_path):
    folder = tree(tmp_path / "tree")
    header = folder / "csrc" / "kernels.h"
    header.write_text("int broken = ;\n" + header.read_text())
    (entry,) = record(wheel_of(folder, tmp_path / "wheel")).values()
    assert entry["missing"].startswith("compiling failed: kernels.h:1:")
    assert entry["missing"].endswith("run: gan-regularizers build --verbose")


@pytest.mark.parametrize("archs", ["9.0", "sm_90", "75;;x", "90+PTX"])
def test_a_malformed_list_of_architectures_stops_the_build(package, archs, monkeypatch, capsys):
    monkeypatch.setenv("GAN_REGULARIZERS_CUDA_ARCHS", archs)
    said = f"GAN_REGULARIZERS_CUDA_ARCHS: {archs!r} is no list of compute capabilities such as 75;90"
    assert main(["build"]) == 1
    assert capsys.readouterr().err == f"gan-regularizers: {said}\n"
    assert main(["build", "--cuda-archs", archs]) == 1
    assert capsys.readouterr().err.startswith(f"gan-regularizers: --cuda-archs: {archs!r}")
    assert not any((package / building.FOLDER).iterdir())


def test_an_install_says_that_the_architectures_are_malformed(tmp_path):
    folder = tree(tmp_path / "tree")
    done = pip_wheel(folder, tmp_path, GAN_REGULARIZERS_CUDA_ARCHS="9.0")
    assert done.returncode == 1
    assert "'9.0' is no list of compute capabilities" in done.stdout + done.stderr
    assert not list(folder.rglob("CMakeCache.txt"))


def test_the_command_needs_its_tools(package, monkeypatch, capsys):
    monkeypatch.setattr(building, "_pybind11", lambda: None)
    assert main(["build"]) == 1
    said = "building needs pybind11; pip install cmake ninja pybind11"
    assert capsys.readouterr().err == f"gan-regularizers: {said}\n"
    built = building.build(package, package.parent / "work")
    command = "pip install cmake ninja pybind11 && gan-regularizers build"
    assert built.missing == f"pybind11 not installed; run: {command}"


def test_the_command_needs_to_write(package, monkeypatch, capsys):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != package / building.FOLDER and access(path, mode))
    assert main(["build"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"you may not write into {package / building.FOLDER}, where" in line


def test_the_command_without_compilers_says_so(package, capsys):
    assert main(["build"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gan-regularizers: no kernels were built: no C++ compiler was found; install one")
    assert "no C++ compiler" in building.report(package).missing


@pytest.mark.skipif(not NVRTC, reason="no NVRTC")
def test_images_need_the_module(package, capsys):
    assert main(["build", "--cuda-archs", "90"]) == 1
    module = package / building.FOLDER / building.file_name()
    said = f"gan-regularizers: CUDA images need the kernel module, and {module} is not there"
    assert capsys.readouterr().err == f"{said}; run: gan-regularizers build\n"
    assert not (package / cubins.SHIPPED).exists()


def test_a_failed_build_leaves_the_kernels_of_these_sources(package):
    module = package / building.FOLDER / building.file_name()
    module.write_bytes(b"kernels")
    assert "never built" in building.report(package).missing  # there, but on no record

    entry = building.Kernels("GCC 12.2.0", ["baseline"], building._digest(package / "csrc"))
    module.with_name("kernels.json").write_text(json.dumps({module.name: {**vars(entry)}}))
    assert "no C++ compiler" in building.build(package, package.parent / "work").missing
    assert building.report(package) == entry

    with (package / "csrc" / "kernels.h").open("a") as header:
        header.write("// changed\n")
    assert "from other sources" in building.report(package).missing
    building.build(package, package.parent / "work")
    assert "no C++ compiler" in building.report(package).missing


def test_a_cross_build_makes_the_module_that_setuptools_is_told_of(monkeypatch):
    """By its toolchain file, with no word of this Python's."""
    monkeypatch.setenv("SETUPTOOLS_EXT_SUFFIX", ".cpython-314-aarch64-linux-gnu.so")
    assert building.file_name() == "_kernels.cpython-314-aarch64-linux-gnu.so"


def test_a_tree_that_was_never_built_says_so(package):
    name = f"_kernels{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    for content in (None, "", "{", "[]", json.dumps({name: {"of": "another version"}}), json.dumps({name: 3})):
        if content is not None:
            (package / building.FOLDER / "kernels.json").write_text(content)
        said = building.report(package).missing
        assert said == "the kernels were never built for this Python; run: gan-regularizers build"


def test_the_digest_is_of_the_sources_alone(package):
    sources = package / "csrc"
    before = building._digest(sources)
    (sources / ".kernels.h.swp").write_bytes(b"an editor's")
    assert building._digest(sources) == before
    (sources / "philox.h").rename(sources / "philox2.h")
    renamed = building._digest(sources)
    (sources / "philox2.h").write_bytes((sources / "philox2.h").read_bytes() + b"\n")
    assert len({before, renamed, building._digest(sources)}) == 3


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("[1/2] cc\nFAILED: x.o\ncc -c x.cpp\nx.cpp:5:9: error: expected ';'\nninja: stopped", "x.cpp:5:9: error: exp"),
        ("x.cpp(12): error C2065: undeclared\nninja: stopped", "failed: x.cpp(12): error C2065: undeclared;"),
        (
            "CMake Error at CMakeLists.txt:2 (cmake_minimum_required):\n  CMake 3.24 or higher is required.\n\n--",
            "3.24",
        ),
        ("CMake Error at CMakeLists.txt:20:", "failed: CMake Error at"),
        ("", "failed: no output;"),
        (
            "CMake Error at F.cmake:233 (message):\n  Could NOT find Python (missing: Development.Module)",
            "the headers of",
        ),
    ],
)
def test_the_reason_is_the_first_error(log, said):
    assert said in building._reason(log)
