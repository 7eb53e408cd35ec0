"""The rows of the tables, for the terminal and for the documentation."""

from collections.abc import Callable
from typing import Any

from .cases import AUTOTUNED, CLONE, COMPILED, FILE, OURS, REPLAYED, SEQUENCE
from .settings import shape_name

Case = dict[str, Any]  # a record of the JSON file
Result = dict[str, Any]  # the whole of it

LEGEND = (
    "ms: median of gan_regularizers; spread: between its quartiles; of clone: share of torch.clone's GB/s, and given: "
    "with parameters drawn before; eager, compile, autotune, file: time of the official sequence, of torch.compile of "
    "it, of that with max-autotune and of the official file, in times of ours; memory, host ms, kernels: ours/eager."
)


def row(case: Case) -> dict[str, str]:
    """The figures of a case by the name of their column."""
    figures = case["competitors"]
    ours = figures[OURS]
    low, high = ours["quartiles_s"]
    cells = {
        "part": case["part"],
        "mode": case["mode"],
        "ms": _milliseconds(ours["median_s"]),
        "spread": f"{100 * (high - low) / ours['median_s']:.0f}%",
        "GB/s": _three_digits(ours["gb_per_s"]),
        "of clone": f"{ours['percent_of_clone']:.0f}%",
        **({"given": f"{figures[REPLAYED]['percent_of_clone']:.0f}%"} if REPLAYED in figures else {}),
        "eager": _times_ours(figures, SEQUENCE),
        "compile": _times_ours(figures, COMPILED),
        **({"autotune": _times_ours(figures, AUTOTUNED)} if AUTOTUNED in figures else {}),
        "file": _times_ours(figures, FILE),
        "memory": _beside(figures, "peak_tensors", "{:.1f}".format),
    }
    if ours["host_median_s"] is not None:
        cells["host ms"] = _beside(figures, "host_median_s", _milliseconds)
    if ours["launches"] is not None:
        cells["kernels"] = _beside(figures, "launches", str)
    return cells


def batch_name(case: Case) -> str:
    """Such as ``64x3x256x256 float32``."""
    return f"{shape_name(case['shape'])} {case['dtype']}"


def heading(result: Result) -> str:
    """The device and what ran on it."""
    machine, versions = result["machine"], result["versions"]
    threads = f", {machine['threads']} threads" if result["settings"]["device"] == "cpu" else ""
    cuda = f", CUDA {versions['cuda']}, driver {versions['driver'] or 'unknown'}" if versions["cuda"] else ""
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
    return "-" if ratio is None else f"{_three_digits(ratio)}x"


def _milliseconds(seconds: float) -> str:
    return _three_digits(seconds * 1e3)


def _three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"  # 2340, not 2.34e+03


def _beside(figures: dict[str, Any], key: str, write: Callable[[Any], str]) -> str:
    values = (figures[name].get(key) for name in (OURS, SEQUENCE))
    return "/".join("-" if value is None else write(value) for value in values)
