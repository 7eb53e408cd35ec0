"""The roofline of the CPU's passes: their bytes, instructions and time, beside what the machine gives.

::

    python benchmarks/roofline.py --json benchmarks/roofline.json
    python benchmarks/tables.py

Times are the fastest tenth of calls. Instructions are counted by valgrind and, of aarch64, by QEMU, per element of a
batch, as the difference of a run with two calls and one with one. Valgrind knows no AVX-512, so its instructions are
not counted. With ``--before DIR``, a checkout of an earlier commit, those of aarch64 are counted in that too.

Needs x86-64 with AVX2, Linux, g++ and valgrind (Debian: apt install g++ valgrind), ziglang (pip install ziglang) and
QEMU (apt install qemu-user libc6-arm64-cross).
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from gan_regularizers.commands.bench import machine
from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import check_output, write_atomically
from gan_regularizers.io.options import Parser, whole_number

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "benchmarks" / "roofline"
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-w")
SETS = {  # as csrc/CMakeLists.txt has them
    "baseline": (),
    "avx2": ("-mavx2", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
}
AARCH64 = ("-target", "aarch64-linux-gnu.2.17")  # that of the wheels
LIBRARIES = Path("/usr/aarch64-linux-gnu")

Shape = tuple[int, int, int, int]
BATCHES: tuple[Shape, ...] = ((256, 3, 32, 32), (64, 3, 64, 64), (16, 3, 256, 256))
MIDDLE = BATCHES[1]
MAPS: Shape = (16, 112, 16, 16)  # features
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}
SWEEPS = 3  # through all passes: what disturbs a virtual machine can last for seconds


class Pass(NamedTuple):
    """What passes.cpp is told of one."""

    parts: str
    layout: str = "contiguous"

    def shapes(self) -> tuple[Shape, ...]:
        """The batches that it is timed on."""
        return (MAPS,) if "per_channel" in self.parts else BATCHES


COLOR, WINDOW, NOISE = "brightness saturation contrast", "shift cutout", "gain noise"
PASSES = {
    "moved": Pass(WINDOW),
    "moved, channels_last": Pass(WINDOW, "channels_last"),
    "gain": Pass("gain"),
    "color": Pass(COLOR),
    "color, adjoint": Pass(f"{COLOR} adjoint"),
    "color, moved": Pass(f"{COLOR} {WINDOW}"),
    "color, moved, adjoint": Pass(f"{COLOR} {WINDOW} adjoint"),
    "noise": Pass(NOISE),
    "all": Pass(f"{COLOR} {WINDOW} {NOISE}"),
    "all, channels_last": Pass(f"{COLOR} {WINDOW} {NOISE}", "channels_last"),
    "noise per channel": Pass(f"{NOISE} per_channel"),
    "noise per channel, channels_last": Pass(f"{NOISE} per_channel", "channels_last"),
}


def run(command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run a program; its output, unless it failed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise CommandError(f"{Path(str(command[0])).name} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return done


def build(folder: Path) -> None:
    """What runs on this machine: ``passes`` with all instruction sets, and ``machine``."""
    csrc = ROOT / "csrc"
    options = ("g++", *OPTIONS, f"-I{csrc}")
    for name, flags in SETS.items():
        told = (*flags, f"-DGR_INSTRUCTION_SET={name}", "-c", csrc / "kernels_cpu_simd.cpp", "-o", folder / f"{name}.o")
        run([*options, *told])
    objects = [folder / f"{name}.o" for name in SETS]
    sources = (SOURCES / "passes.cpp", csrc / "kernels_cpu.cpp")
    # Threads are OpenMP's, as beside torch.
    libraries = ("-ldl", "-Wl,--no-as-needed", "-lgomp")
    run([*options, "-DGR_AVX2", "-DGR_AVX512", *sources, *objects, *libraries, "-o", folder / "passes"])
    build_machine(folder / "machine")


def build_machine(program: Path) -> None:
    told = ("-mavx2", "-fopenmp", "-fno-tree-loop-distribute-patterns")  # else a copy becomes a call of memcpy
    run(["g++", *OPTIONS, *told, SOURCES / "machine.cpp", "-o", program])


def build_for_aarch64(csrc: Path, program: Path) -> None:
    sources = (SOURCES / "passes.cpp", csrc / "kernels_cpu.cpp", csrc / "kernels_cpu_simd.cpp")
    compiler = (sys.executable, "-m", "ziglang", "c++", *AARCH64)
    run([*compiler, *OPTIONS, f"-I{csrc}", "-DGR_INSTRUCTION_SET=baseline", *sources, "-ldl", "-o", program])


def call(
    program: Sequence[object], a_set: str, dtype: str, a_pass: Pass, shape: Shape, threads: int, calls: int
) -> subprocess.CompletedProcess[str]:
    return run([*program, a_set, dtype, a_pass.layout, *shape, threads, calls, *a_pass.parts.split()])


def fastest_tenth(times: Iterable[float]) -> float:
    """The slowest of it."""
    ordered = sorted(times)
    return ordered[len(ordered) // 10]


def of_machine(program: Path, size: int, threads: int, rounds: int) -> dict[str, float]:
    """Seconds of copies, if the size is not 0, and nanoseconds of a vector instruction on every thread."""
    times = defaultdict(list)
    for line in run(["env", f"OMP_NUM_THREADS={threads}", program, size, rounds]).stdout.splitlines():
        name, time = line.split("\t")
        times[name].append(float(time))
    return {name: fastest_tenth(values) for name, values in times.items()}


def gain(program: Path, threads: int) -> float:
    """How many times as many instructions all threads run as one does: hardly more where they share a core."""
    one, each = (of_machine(program, 0, count, 20)["instruction"] for count in (1, threads))
    return threads * one / each


def memory(program: Path, sizes: Iterable[int], threads: Iterable[int], rounds: int) -> tuple[list[dict], float]:
    """Seconds of copies, by size and number of threads; and nanoseconds of a vector instruction."""
    records, instruction = [], math.inf
    for size, count in product(sizes, threads):
        fastest = of_machine(program, size, count, rounds)
        instruction = min(instruction, fastest.pop("instruction"))
        records.append({"bytes": size, "threads": count, "seconds": fastest})
    return records, instruction


def timed(folder: Path, sets: Sequence[str], threads: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Nanoseconds of an element, on one thread for all sets and dtypes, on all for the best set and float32.

    Beside several threads, what they gained in instructions alone, before the pass and at the best of its turns: the
    processors of a virtual machine may share a core for a while, with each other or with other work.
    """
    cases = []
    for (name, a_pass), dtype in product(PASSES.items(), DTYPES):
        for shape in a_pass.shapes():
            if dtype == "float32" or shape in (MIDDLE, MAPS):
                cases += [(name, dtype, shape, 1, a_set) for a_set in sets]
            if dtype == "float32":
                cases += [(name, dtype, shape, count, sets[-1]) for count in threads if count != 1]
    seconds: dict[tuple, list[float]] = {case: [] for case in cases}
    gains: dict[tuple, list[float]] = defaultdict(list)
    for _, case in product(range(SWEEPS), cases):
        name, dtype, shape, count, a_set = case
        calls = max(10, rounds * math.prod(MIDDLE) // math.prod(shape) // SWEEPS)
        if count > 1:
            gains[case].append(gain(folder / "machine", count))
        output = call([folder / "passes"], a_set, dtype, PASSES[name], shape, count, calls).stdout
        seconds[case] += map(float, output.split())
    return [
        {
            **dict(zip(("pass", "dtype", "batch", "threads", "set"), case, strict=True)),
            "ns": 1e9 * fastest_tenth(of_case) / math.prod(case[2]),
            **({"gain": max(gains[case])} if case in gains else {}),
        }
        for case, of_case in seconds.items()
    ]


def counted(program: Sequence[object], a_set: str, csrc: Path) -> dict[str, dict[str, float | None]]:
    """Instructions per element of all passes, under what prints "Collected : N"; None of what the kernels lack."""
    per_channel = (csrc / "channels_cpu_simd.h").exists()

    def difference(case: tuple[Pass, str]) -> float | None:
        a_pass, dtype = case
        if "per_channel" in a_pass.parts and not per_channel:
            return None
        _, *size = a_pass.shapes()[len(a_pass.shapes()) // 2]
        shape = (4, *size)
        one, two = (
            int(re.search(r"Collected : (\d+)", call(program, a_set, dtype, a_pass, shape, 1, calls).stderr)[1])
            for calls in (1, 2)
        )
        return (two - one) / math.prod(shape)

    cases = [(a_pass, dtype) for a_pass in PASSES.values() for dtype in DTYPES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        numbers = list(pool.map(difference, cases))
    return {
        name: dict(zip(DTYPES, numbers[len(DTYPES) * i :][: len(DTYPES)], strict=True)) for i, name in enumerate(PASSES)
    }


def usable_sets() -> list[str]:
    """As csrc/cpu_features.h decides."""
    flags = set(re.search(r"^flags.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split())
    needs = {"baseline": set(), "avx2": {"avx2", "f16c"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    return [name for name, needed in needs.items() if needed <= flags]


def versions() -> dict[str, str | None]:
    def first_line(*command: object) -> str:
        return run(command).stdout.splitlines()[0]

    return {
        **machine.versions("cpu"),
        "g++": first_line("g++", "--version"),
        "valgrind": first_line("valgrind", "--version"),
        "ziglang": first_line(sys.executable, "-m", "ziglang", "version"),
        "qemu": first_line("qemu-aarch64", "--version"),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="roofline.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument(
        "--rounds",
        type=whole_number("[10, inf)"),
        default=60,
        help=f"calls of a pass on {'x'.join(map(str, MIDDLE))}, in proportion on others (default: %(default)s)",
    )
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Stop before any work where something is amiss."""
    check_output("--json", args.json, ".json")
    if args.before and not (args.before / "csrc" / "kernels_cpu_simd.cpp").exists():
        raise CommandError(f"--before {args.before}: there is no csrc/kernels_cpu_simd.cpp; name a checkout")
    if sys.platform != "linux" or platform.machine() != "x86_64" or "avx2" not in usable_sets():
        raise CommandError("this is for Linux on x86-64 with AVX2")
    for program in ("g++", "valgrind", "qemu-aarch64"):
        if not shutil.which(program):
            raise CommandError(f"there is no {program}")
    if not importlib.util.find_spec("ziglang"):
        raise CommandError("there is no ziglang (pip install ziglang)")
    if not LIBRARIES.exists():
        raise CommandError(f"there is no {LIBRARIES} (Debian: apt install libc6-arm64-cross)")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check(args)
    sets, threads = usable_sets(), sorted({1, os.cpu_count() or 1})
    sizes = sorted({math.prod(shape) * size for shape in (*BATCHES, MAPS) for size in DTYPES.values()})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("building", flush=True)
        build(folder)
        print("timing", flush=True)
        copies, instruction = memory(folder / "machine", sizes, threads, args.rounds)
        result = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": machine.describe("cpu"),
            "versions": versions(),
            "set": sets[-1],
            "memory": copies,
            "instruction_ns": instruction,
            "times": timed(folder, sets, threads, args.rounds),
        }
        print("counting", flush=True)
        valgrind = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", folder / "passes")
        result["instructions"] = {name: counted(valgrind, name, ROOT / "csrc") for name in ("baseline", "avx2")}
        plugin = folder / "count_instructions.so"
        run(["g++", "-O2", "-shared", "-fPIC", SOURCES / "count_instructions.cpp", "-o", plugin])
        result["aarch64"] = {"before": None, "now": None}
        for name, checkout in {"before": args.before, "now": ROOT}.items():
            if checkout:
                build_for_aarch64(checkout / "csrc", folder / name)
                emulator = ("qemu-aarch64", "-L", LIBRARIES, "-plugin", plugin, folder / name)
                result["aarch64"][name] = counted(emulator, "best", checkout / "csrc")
    write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    try:
        main()
    except (CommandError, OSError) as error:
        sys.exit(f"roofline.py: {error}")
