"""Tables and pictures of the runs of study.py."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from arms import ARMS
from rich.table import Table

RUNS = "gaussians-parts.jsonl"
DOCS = Path(__file__).resolve().parents[2] / "docs"

Run = dict[str, Any]


def read(path: Path) -> list[Run]:
    """The runs of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by arm, in the order of arms.py; seeds ascend."""
    arms: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (list(ARMS).index(run["arm"]), run["seed"])):
        arms.setdefault(run["arm"], []).append(run)
    return arms


def rows(runs: Iterable[Run]) -> list[dict[str, str]]:
    """A row per arm: modes of every seed, and mean and standard deviation of all that is measured."""
    table = []
    for arm, seeds in by_arm(runs).items():
        table.append(
            {
                "arm": arm,
                "modes of 25": ", ".join(str(run["modes"]) for run in seeds),
                "mean ± sd": spread([run["modes"] for run in seeds], ".1f"),
                "good samples": spread([run["good"] for run in seeds], ".1%"),
                "mean T": f"{statistics.mean(T for run in seeds for T in run['course']['T']):.0f}",
            }
        )
    return table


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation; the mean alone where there is one value."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def console_table(runs: Iterable[Run]) -> Table:
    """``rows`` for a terminal."""
    lines = rows(runs)
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*line.values())
    return table
