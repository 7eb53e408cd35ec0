"""The CPU kernels on aarch64, emulated: the bits are those of this machine."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
LIBRARIES = Path("/usr/aarch64-linux-gnu")  # where Debian's cross packages lie
TARGET = ("c++", "-target", "aarch64-linux-gnu.2.17")  # that of the wheels


def digests(compiler: Sequence[str], program: Path, runner: Sequence[str] = ()) -> list[str]:
    """What cpu_digest/digest.cpp prints, compiled as the baseline of the package is."""
    csrc = HERE.parent / "csrc"
    sources = (HERE / "cpu_digest" / "digest.cpp", csrc / "kernels_cpu.cpp", csrc / "kernels_cpu_simd.cpp")
    options = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", f"-I{csrc}")
    options += ("-DGR_INSTRUCTION_SET=baseline", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run([*compiler, *options, *sources, "-ldl", "-o", program], check=True)
    return subprocess.run([*runner, program], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no ziglang to compile for aarch64 with")
@pytest.mark.skipif(EMULATOR is None, reason="no qemu-aarch64 to run the kernels on (Debian: apt install qemu-user)")
@pytest.mark.skipif(not LIBRARIES.exists(), reason="no libraries of aarch64 (Debian: apt install libc6-arm64-cross)")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ for this machine")
def test_the_bits_are_those_of_this_machine(tmp_path):
    here = digests(["g++"], tmp_path / "here")
    zig = [sys.executable, "-m", "ziglang", *TARGET]
    there = digests(zig, tmp_path / "there", [EMULATOR, "-L", str(LIBRARIES)])
    assert there == here
    assert len(here) == len(set(here)) == 50
