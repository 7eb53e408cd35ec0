"""Rewrite the tables of docs/performance.md and of the README from benchmarks/results and benchmarks/roofline*.json::

python benchmarks/tables.py
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from gan_regularizers.commands.bench import report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- tables.py writes from here -->", "<!-- to here -->"
ROOFLINE_BEGIN = "<!-- tables.py writes the roofline from here -->"
NO_RESULTS = "No results yet."
README_COLUMNS = ("batch", "ms", "of clone", "eager", "compile", "file", "memory")


def main() -> None:
    """Rewrite both pages."""
    for path, text in pages().items():
        path.write_text(text)


def pages() -> dict[Path, str]:
    """What the pages must say."""
    results = _by_name(RESULTS.glob("*.json"))
    machines = [path for path in results if "_" not in path.stem]  # cpu_threads is of one question, cpu of a machine
    rooflines = [json.loads(path.read_text()) for path in _by_name((ROOT / "benchmarks").glob("roofline*.json"))]
    performance, readme = ROOT / "docs" / "performance.md", ROOT / "README.md"
    page = rewritten(performance.read_text(), map(section, results))
    page = rewritten(page, [*chain(*map(roofline, rooflines)), aarch64(rooflines)], ROOFLINE_BEGIN)
    return {performance: page, readme: rewritten(readme.read_text(), map(summary, machines))}


def _by_name(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stem)


def rewritten(page: str, parts: Iterable[str], marker: str = BEGIN) -> str:
    """The page with these parts between its markers."""
    before, begin, rest = page.partition(marker)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks its markers, {marker} and {END}")
    text = "\n\n".join(filter(None, parts)) or NO_RESULTS
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def section(path: Path) -> str:
    """A heading, a table with a row per case, and the chart if there is one."""
    result = _complete(path)
    parts = [f"### {path.stem}", f"{report.heading(result)}.", table(_rows(result["cases"]))]
    picture = path.with_suffix(".png")
    if picture.exists():
        parts.append(f"![{path.stem}]({Path(os.path.relpath(picture, ROOT / 'docs')).as_posix()})")
    return "\n\n".join(parts)


def summary(path: Path) -> str:
    """A short table: all parts together, forward and backward; nothing, if that was not timed."""
    result = _complete(path)
    chosen = [case for case in result["cases"] if (case["part"], case["mode"]) == ("all", "forward+backward")]
    if not chosen:
        return ""
    rows = [{name: row[name] for name in README_COLUMNS if name in row} for row in _rows(chosen)]
    return f"{report.heading(result)}:\n\n{table(rows)}"


def roofline(result: dict[str, Any]) -> list[str]:
    """Of a machine: what memory gives, every pass beside it, and its batches."""
    machine, versions = result["machine"], result["versions"]
    told = ("gan_regularizers", "g++", "valgrind", "ziglang", "qemu")
    numbers = (re.search(r"\d+(\.\d+)+", versions[name])[0] for name in told)
    software = ", ".join(f"{name} {number}" for name, number in zip(told, numbers, strict=True))
    return [
        f"{machine['cpu']}; {software}; {result['date']}.",
        table(_memory_rows(result["memory"])),
        table(_pass_rows(result)),
        table(_batch_rows(result)),
    ]


def aarch64(results: list[dict[str, Any]]) -> str:
    """Instructions on aarch64: what machine counted them makes no difference, so the latest."""
    latest = max(results, key=lambda result: result["date"])["aarch64"]
    counts = {when: of_passes for when, of_passes in latest.items() if of_passes}
    names = counts["now"]
    rows = [{"aarch64": name, **{when: _cells(counts[when][name].get) for when in counts}} for name in names]
    return table(rows)


def _memory_rows(copies: list[dict[str, Any]]) -> list[dict[str, str]]:
    shown = [copy for copy in copies if copy["bytes"] in (3 << 20, 12 << 20)]
    columns = {f"{copy['bytes'] >> 20} MiB, threads: {copy['threads']}": copy for copy in shown}
    return [
        {
            "GB/s": way,
            **{
                column: report.three_digits((1 if way == "read" else 2) * copy["bytes"] / copy["seconds"][way] / 1e9)
                for column, copy in columns.items()
            },
        }
        for way in shown[0]["seconds"]
    ]


def _pass_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """On one thread, of the batch that all dtypes are timed on."""
    best = result["set"]
    shapes = {time["pass"]: time["batch"] for time in result["times"] if time["dtype"] != "float32"}
    times = {
        (time["pass"], time["dtype"], time["set"]): time["ns"]
        for time in result["times"]
        if time["batch"] == shapes[time["pass"]] and time["threads"] == 1
    }

    def row(name: str) -> dict[str, str]:
        instructions = {level: counts[name] for level, counts in result["instructions"].items()}

        def copy(dtype: str) -> float:
            return _copy_ns(result, shapes[name], dtype, 1)

        def computation(dtype: str) -> float:
            return instructions["avx2"][dtype] * result["instruction_ns"]

        def bound(dtype: str) -> str:
            return "memory" if copy(dtype) > computation(dtype) else "instructions"

        bounds = list(map(bound, _DTYPES))

        def share(dtype: str) -> str:
            return f"{100 * max(copy(dtype), computation(dtype)) / times[name, dtype, 'avx2']:.0f}%"

        return {
            "pass": name,
            "instructions, SSE2": _cells(instructions["baseline"].get),
            "AVX2": _cells(instructions["avx2"].get),
            "ns, AVX2": _cells(lambda dtype: times[name, dtype, "avx2"]),
            "bound": "/".join(bounds if len(set(bounds)) > 1 else bounds[:1]),
            "of the bound": "/".join(map(share, _DTYPES)),
            f"ns, {best.upper()}": _cells(lambda dtype: times[name, dtype, best]),
            "x copy": _cells(lambda dtype: times[name, dtype, best] / copy(dtype)),
        }

    return list(map(row, shapes))


def _batch_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """In float32 and the best instruction set: in times of a copy, and how much faster all threads are than one."""
    best = result["set"]
    times: dict[str, dict[tuple[int, ...], dict[int, dict[str, float]]]] = {}
    for time in result["times"]:
        if (time["dtype"], time["set"]) == ("float32", best):
            batches = times.setdefault(time["pass"], {})
            batches.setdefault(tuple(time["batch"]), {})[time["threads"]] = time

    def cell(batch: tuple[int, ...], on: dict[int, dict[str, float]]) -> str:
        copies = (on[threads]["ns"] / _copy_ns(result, batch, "float32", threads) for threads in sorted(on))
        all_threads = on[max(on)]
        of_machine = f" of {all_threads['gain']:.2f}" if "gain" in all_threads else ""  # older files have none
        return f"{'/'.join(map(report.three_digits, copies))}, {on[1]['ns'] / all_threads['ns']:.2f}x{of_machine}"

    return [
        {"pass": name, **{"x".join(map(str, batch)): cell(batch, on) for batch, on in batches.items()}}
        for name, batches in times.items()
        if len(batches) > 1  # images
    ]


_DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}


def _copy_ns(result: dict[str, Any], batch: Sequence[int], dtype: str, threads: int) -> float:
    elements = math.prod(batch)
    (copy,) = (
        copy["seconds"]["copy"]
        for copy in result["memory"]
        if (copy["bytes"], copy["threads"]) == (elements * _DTYPES[dtype], threads)
    )
    return 1e9 * copy / elements


def _cells(figure: Callable[[str], float | None]) -> str:
    """The three dtypes' figures."""
    figures = map(figure, _DTYPES)
    return "/".join(report.DASH if value is None else report.three_digits(value) for value in figures)


def _rows(cases: list[report.Case]) -> list[dict[str, str]]:
    return [{"batch": report.batch_name(case), **row} for case, row in zip(cases, report.rows(cases), strict=True)]


def table(rows: list[dict[str, str]]) -> str:
    """In Markdown."""
    lines = [tuple(rows[0]), tuple("---" for _ in rows[0]), *(tuple(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _complete(path: Path) -> report.Result:
    result = json.loads(path.read_text())
    if not result["complete"]:
        raise ValueError(f"{path.name} is of a run that was cut short")
    return result


if __name__ == "__main__":
    main()
