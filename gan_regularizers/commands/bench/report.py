"""The rows of the tables, for the terminal and for the documentation."""

import math
from collections.abc import Callable
from typing import Any

from .cases import (
    AUTOTUNED,
    CLONE,
    COMPETITORS,
    COMPILED,
    FILE,
    KORNIA,
    LIBRARIES,
    OURS,
    REPLAYED,
    REPLAYED_SEQUENCE,
    SEQUENCE,
    TORCHVISION,
)
from .settings import shape_name

Case = dict[str, Any]  # a record of the JSON file
Result = dict[str, Any]  # the whole of it

DASH = "-"
_FIGURES = {
    "ms": "median of gan_regularizers",
    "spread": "between its quartiles",
    "of clone": "share of torch.clone's GB/s",
    "x clone": "time in times of torch.clone's, with parameters given",
    "ns": "a normal and thread, with parameters given, ours/eager",
    "memory": "in tensors of the batch's size, ours/eager",
    "host ms": "ours/eager",
    "kernels": "ours/eager",
}
_OTHERS = {
    "eager": "the official sequence",
    "compile": "torch.compile of it",
    "autotune": "that with max-autotune",
    "file": "the official file",
    "kornia": "nearest equivalent",
    "torchvision": "nearest equivalent, image by image",
}


def row(case: Case) -> dict[str, str]:
    """The figures of a case by the name of their column."""
    figures = case["competitors"]
    ours = figures[OURS]
    low, high = ours["quartiles_s"]
    return {
        "part": case["part"],
        "mode": case["mode"],
        "threads": str(case.get("threads") or DASH),
        "ms": _milliseconds(ours["median_s"]),
        "spread": f"{100 * (high - low) / ours['median_s']:.0f}%",
        "GB/s": three_digits(ours["gb_per_s"]),
        "of clone": f"{ours['percent_of_clone']:.0f}%",
        "x clone": _times(relative_to_clone(case).get(REPLAYED)),
        "eager": _times_ours(figures, SEQUENCE),
        "compile": _times_ours(figures, COMPILED),
        "autotune": _times_ours(figures, AUTOTUNED),
        "file": _times_ours(figures, FILE),
        "kornia": _times_ours(figures, KORNIA),
        "torchvision": _times_ours(figures, TORCHVISION),
        "ns": _nanoseconds_per_normal(case),
        "memory": _beside(figures, "peak_tensors", "{:.1f}".format),
        "host ms": _beside(figures, "host_median_s", _milliseconds),
        "kernels": _beside(figures, "launches", str),
    }


def rows(cases: list[Case]) -> list[dict[str, str]]:
    """Those of some cases, without columns that are empty, and with the threads only where their number differs."""
    complete = list(map(row, cases))
    shown = [name for name in complete[0] if any(cells[name] != DASH for cells in complete)]
    if not several_threads(cases):
        shown = [name for name in shown if name != "threads"]
    return [{name: cells[name] for name in shown} for cells in complete]


def legend(columns: list[str]) -> str:
    """What those of the columns mean that need a word."""
    figures = "; ".join(f"{name}: {meaning}" for name, meaning in _FIGURES.items() if name in columns)
    others = ", ".join(f"{name} ({meaning})" for name, meaning in _OTHERS.items() if name in columns)
    return f"{figures}." + (f" Their time in times of ours: {others}." if others else "")


def not_timed(cases: list[Case]) -> dict[str, str]:
    """The competitors that did nothing of what they were asked for, with the reason."""
    records = [(name, figures) for case in cases for name, figures in case["competitors"].items()]
    able = {name for name, figures in records if figures["median_s"] is not None}
    reasons = {name: figures["reason"] for name, figures in records if name not in able}
    return {name: reasons[name] for name in COMPETITORS if name in reasons}


def several_threads(cases: list[Case]) -> bool:
    """Whether the cases ran on different numbers of threads."""
    return len({case.get("threads") for case in cases}) > 1


def batch_name(case: Case) -> str:
    """Such as ``64x3x256x256 float32 channels_last``; nothing is said of the usual layout."""
    layout = case.get("layout", "contiguous")
    return f"{shape_name(case['shape'])} {case['dtype']}" + (f" {layout}" if layout != "contiguous" else "")


def heading(result: Result) -> str:
    """The device and what ran on it."""
    machine, versions, settings = result["machine"], result["versions"], result["settings"]
    counts = " and ".join(map(str, settings["threads"] or [machine["threads"]]))
    threads = f", {counts} threads" if settings["device"] == "cpu" else ""
    cuda = f", CUDA {versions['cuda']}, driver {versions['driver'] or 'unknown'}" if versions["cuda"] else ""
    libraries = "".join(f", {name} {versions[name]}" for name in LIBRARIES if versions.get(name))
    return (
        f"{machine['device']}{threads}; {result['backend']['name']} backend; "
        f"gan_regularizers {versions['gan_regularizers']}, torch {versions['torch']}{cuda}{libraries}, "
        f"{result['date'][:10]}"
    )


def line(case: Case) -> str:
    """A case in a line."""
    cells = row(case)
    threads = "" if cells["threads"] == DASH else f", {cells['threads']} threads"
    return (
        f"{batch_name(case)}, {cells['part']}, {cells['mode']}{threads}: {cells['ms']} ms, {cells['of clone']} of "
        f"clone, eager {cells['eager']}"
    )


def relative_to_clone(case: Case) -> dict[str, float]:
    """Every competitor's time in times of a clone."""
    clone = case["competitors"][CLONE]["median_s"]
    figures = case["competitors"].items()
    return {name: timed["median_s"] / clone for name, timed in figures if timed["median_s"] is not None}


def three_digits(value: float) -> str:
    """Such as 2340, not 2.34e+03."""
    return f"{float(f'{value:.3g}'):g}"


def _times_ours(figures: dict[str, Any], name: str) -> str:
    return _times(figures.get(name, {}).get("times_ours"))


def _times(ratio: float | None) -> str:
    return DASH if ratio is None else f"{three_digits(ratio)}x"


def _nanoseconds_per_normal(case: Case) -> str:
    """Where nothing is made but normals, one for each element: on the CPU, forward, all samples diffused."""
    if (case["part"], case["mode"]) != ("diffused", "forward") or not case["threads"]:
        return DASH
    scale = 1e9 * case["threads"] / math.prod(case["shape"])
    return _beside(case["competitors"], "median_s", lambda s: three_digits(s * scale), (REPLAYED, REPLAYED_SEQUENCE))


def _milliseconds(seconds: float) -> str:
    return three_digits(seconds * 1e3)


def _beside(
    figures: dict[str, Any], key: str, write: Callable[[Any], str], names: tuple[str, str] = (OURS, SEQUENCE)
) -> str:
    values = [figures[name].get(key) for name in names]
    if not any(value is not None for value in values):
        return DASH
    return "/".join(DASH if value is None else write(value) for value in values)
