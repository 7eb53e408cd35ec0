"""Compile the CUDA kernels for all architectures and print what each one needs; fail on a warning or a spill.

python .ci/cuda_resources.py FOLDER    # an empty one, for the compiler's output
"""

import re
import subprocess
import sys
from pathlib import Path

import pybind11

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def main(folder: str) -> int:
    """Returns 1 where something is amiss."""
    command = ["cmake", "-S", str(SOURCES), "-B", folder, "-G", "Ninja", "-DGR_MODULE=cuda"]
    command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(["cmake", "--build", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
        return 1
    rows: dict[str, dict[str, str]] = {}
    spills = []
    for line in done.stdout.splitlines():
        if found := KERNEL.search(line):
            kernel, architecture = _demangled(found[1]), found[2]
        elif found := STACK.search(line):
            if any(map(int, found.groups())):
                spills.append(f"{kernel} on {architecture}: {line.strip()}")
        elif found := USED.search(line):
            shared = SHARED.search(line)
            rows.setdefault(kernel, {})[architecture] = f"{found[1]}/{shared[1] if shared else 0}"
    architectures = sorted({name for row in rows.values() for name in row}, key=lambda name: int(name[3:]))
    print(f"{'registers/bytes of shared memory':<42}", *(f"{name:>7}" for name in architectures))
    for kernel, row in sorted(rows.items()):
        print(f"{kernel:<42}", *(f"{row[name]:>7}" for name in architectures))
    warnings = [line for line in done.stdout.splitlines() if "warning" in line.lower()]
    for line in (*warnings, *spills):
        print(line)
    return 1 if warnings or spills or not rows else 0


def _demangled(name: str) -> str:
    plain = subprocess.run(["c++filt", name], check=True, capture_output=True, text=True).stdout.strip()
    return re.sub(r"void |gan_regularizers::|\(anonymous namespace\)::|\(.*\)$", "", plain)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
