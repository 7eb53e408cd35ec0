"""The rows of the tables, for the terminal and for the documentation."""

from typing import Any

from .cases import CLONE, COMPILED, FILE, OURS, SEQUENCE
from .settings import shape_name

Case = dict[str, Any]  # a record of the JSON file
Result = dict[str, Any]  # the whole of it

LEGEND = (
    "ms: median of gan_regularizers; spread: between its quartiles; of clone: share of torch.clone's GB/s; eager, "
    "compile, file: time of the official sequence, of torch.compile of it and of the official file, in times of ours; "
    "memory, kernels: ours/eager."
)


def row(case: Case) -> dict[str, str]:
    """The figures of a case by the name of their column."""
    figures = case["competitors"]
    ours = figures[OURS]
    low, high = ours["quartiles_s"]
    cells = {
        "part": case["part"],
        "mode": case["mode"],
        "ms": f"{ours['median_s'] * 1e3:.3g}",
        "spread": f"{100 * (high - low) / ours['median_s']:.0f}%",
        "GB/s": f"{ours['gb_per_s']:.3g}",
        "of clone": f"{ours['percent_of_clone']:.0f}%",
        "eager": _times_ours(figures, SEQUENCE),
        "compile": _times_ours(figures, COMPILED),
        "file": _times_ours(figures, FILE),
        "memory": _beside(figures, "peak_tensors", ".1f"),
    }
    if ours["launches"] is not None:
        cells["kernels"] = _beside(figures, "launches", "d")
    return cells


def batch_name(case: Case) -> str:
    """Such as ``64x3x256x256 float32``."""
    return f"{shape_name(case['shape'])} {case['dtype']}"


def heading(result: Result) -> str:
    """The device and what ran on it."""
    machine, versions = result["machine"], result["versions"]
    threads = f", {machine['threads']} threads" if result["settings"]["device"] == "cpu" else ""
    cuda = f", CUDA {versions['cuda']}, driver {versions['driver']}" if versions["cuda"] else ""
    return (
        f"{machine['device']}{threads}; {result['backend']['name']} backend; "
        f"gan_regularizers {versions['gan_regularizers']}, torch {versions['torch']}{cuda}, {result['date'][:10]}"
    )


def line(case: Case) -> str:
    """A case in a line."""
    cells = row(case)
    return (
        f"{batch_name(case)}, {cells['part']}, {cells['mode']}: {cells['ms']} ms, {cells['of clone']} of clone, "
        f"eager {cells['eager']}"
    )


def relative_to_clone(case: Case) -> dict[str, float]:
    """Every competitor's time in times of a clone."""
    clone = case["competitors"][CLONE]["median_s"]
    figures = case["competitors"].items()
    return {name: timed["median_s"] / clone for name, timed in figures if timed["median_s"] is not None}


def _times_ours(figures: dict[str, Any], name: str) -> str:
    ratio = figures.get(name, {}).get("times_ours")
    return "-" if ratio is None else f"{ratio:.3g}x"


def _beside(figures: dict[str, Any], key: str, form: str) -> str:
    values = (figures[name].get(key) for name in (OURS, SEQUENCE))
    return "/".join("-" if value is None else format(value, form) for value in values)
