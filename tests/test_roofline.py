"""benchmarks/roofline.py, without what takes minutes; that the page has its figures is in test_docs.py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gan_regularizers.io.errors import CommandError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def roofline() -> ModuleType:
    path = ROOT / "benchmarks" / "roofline.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_instruction_sets_are_those_of_the_build(roofline):
    build = (ROOT / "csrc" / "CMakeLists.txt").read_text()
    assert all(flag in build for flags in roofline.SETS.values() for flag in flags)
    assert all(f"add_instruction_set({name}" in build for name in roofline.SETS)
    flags = [flag for flag in roofline.OPTIONS if flag not in ("-std=c++17", "-O3", "-pthread", "-w")]
    assert all(flag in build for flag in flags)


@pytest.mark.parametrize("machine", ["roofline", "roofline-xeon"])
def test_the_figures_are_of_all_passes(roofline, machine):
    result = json.loads((ROOT / "benchmarks" / f"{machine}.json").read_text())
    passes = [*roofline.PASSES]
    assert [*result["instructions"]["avx2"]] == [*result["aarch64"]["now"]] == passes
    assert [*dict.fromkeys(time["pass"] for time in result["times"])] == passes


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("name", ["passes", "count_instructions", "machine"])
def test_sources_compile(roofline, name):
    compiler = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    if name == "machine":
        if roofline.platform.machine() != "x86_64":
            pytest.skip("its instructions are those of x86-64")
        compiler += ["-mavx2", "-fopenmp"]
    subprocess.run([*compiler, ROOT / "benchmarks" / "roofline" / f"{name}.cpp"], check=True)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="for Linux with g++")
def test_threads_on_one_processor_gain_nothing(roofline, tmp_path):
    if roofline.platform.machine() != "x86_64" or "avx2" not in roofline.usable_sets():
        pytest.skip("its instructions are those of x86-64 with AVX2")
    program, before = tmp_path / "machine", os.sched_getaffinity(0)
    roofline.build_machine(program)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert 0.0 < roofline.gain(program, 2) < 1.4
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "b.txt"], "--json b.txt does not end in .json"),
        (["--json", "no/b.json"], "its folder does not exist"),
        (["--json", "b.json", "--before", "."], "--before .: there is no csrc/kernels_cpu_simd.cpp; name a checkout"),
    ],
)
def test_runs_that_cannot_begin(roofline, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match=said.replace(".", r"\.")):
        roofline.main(options)
    assert not [*tmp_path.iterdir()]


def test_options_that_cannot_be_read(roofline, capsys):
    with pytest.raises(SystemExit):
        roofline.main(["--json", "b.json", "--rounds", "1"])
    assert capsys.readouterr().err.endswith("is outside [10, inf)\n")
