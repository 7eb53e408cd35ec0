"""Tables and pictures of the runs of study.py.

Those of docs/gaussians25.md that are about the chain's parts are rewritten from docs/results by::

    python benchmarks/gaussians/report.py
"""

import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from arms import ARMS, CELLS, DESIGN, EXISTING, FACTORS
from matplotlib.figure import Figure
from rich.table import Table

from gan_regularizers.io import plots

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pages import markdown, rewritten

RUNS = "gaussians-parts.jsonl"
DOCS = Path(__file__).resolve().parents[2] / "docs"
TUNING, CONFIRMATION = range(5), range(10, 20)
CONFIRMED = ("vanilla", "fixed noise", "diffusion")
GRADIENT = {  # arms whose gradients are shown
    "diffusion": ("diffusion", plots.RED),
    "gain-1+p-1": ("gain 1, p = 1", plots.BLUE),
    "p-1+untold": ("p = 1, D untold", "#edae49"),
    "all-noisy+gain-1": ("clean share 0, gain 1", "#8ab6bd"),
}

Run = dict[str, Any]


class Effect(NamedTuple):
    """Of a factor or of two together: the mean with the change less the mean without, over all else."""

    factors: tuple[str, ...]
    modes: float
    modes_error: float
    good: float
    good_error: float


def read(path: Path) -> list[Run]:
    """The runs of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by arm, in the order of arms.py; seeds ascend."""
    arms: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (list(ARMS).index(run["arm"]), run["seed"])):
        arms.setdefault(run["arm"], []).append(run)
    return arms


def chosen(runs: Iterable[Run], arms: Iterable[str], seeds: range) -> list[Run]:
    """The runs of some arms and seeds."""
    arms = tuple(arms)
    return [run for run in runs if run["arm"] in arms and run["seed"] in seeds]


def rows(runs: Iterable[Run]) -> list[dict[str, str]]:
    """A row per arm: modes of every seed, and mean and standard deviation of all that is measured."""
    table = []
    for arm, seeds in by_arm(runs).items():
        table.append(
            {
                "arm": arm,
                "modes of 25": ", ".join(str(run["modes"]) for run in seeds),
                "mean ± sd": spread([run["modes"] for run in seeds], ".1f"),
                "all 25": f"{sum(run['modes'] == 25 for run in seeds)} of {len(seeds)}",
                "good samples": spread([run["good"] for run in seeds], ".1%"),
                "mean T": f"{statistics.mean(T for run in seeds for T in run['course']['T']):.0f}",
            }
        )
    return table


def effects(runs: Iterable[Run]) -> list[Effect]:
    """Main effects and interactions of two factors in the design, with standard errors from the spread of the seeds.

    Raises:
        ValueError: the combinations of the design have not as many runs each.
    """
    cells = by_arm(chosen(runs, DESIGN, TUNING))
    if {len(cells.get(name, ())) for name in DESIGN} != {len(TUNING)}:
        raise ValueError("the design is not finished")
    found = []
    for factors in [*combinations(FACTORS, 1), *combinations(FACTORS, 2)]:
        estimates = []
        for measure in ("modes", "good"):
            sign = {name: math.prod(1 if f in CELLS[name] else -1 for f in factors) for name in DESIGN}
            means = {name: statistics.mean(run[measure] for run in cells[name]) for name in DESIGN}
            variance = statistics.mean(statistics.variance([run[measure] for run in cells[name]]) for name in DESIGN)
            estimates.append(2 * statistics.mean(sign[name] * means[name] for name in DESIGN))
            estimates.append(2 * math.sqrt(variance / (len(DESIGN) * len(TUNING))))
        found.append(Effect(factors, *estimates))
    return found


def effect_rows(found: Iterable[Effect]) -> list[dict[str, str]]:
    """A row per effect; bold where it is more than two standard errors."""
    table = []
    for e in found:
        modes = f"{e.modes:+.1f} ± {e.modes_error:.1f}"
        good = f"{e.good * 100:+.1f} ± {e.good_error * 100:.1f}"
        table.append(
            {
                "changed": " x ".join(FACTORS[factor] for factor in e.factors),
                "modes": f"**{modes}**" if abs(e.modes) > 2 * e.modes_error else modes,
                "good samples, points": f"**{good}**" if abs(e.good) > 2 * e.good_error else good,
            }
        )
    return table


def gradient_rows(runs: Iterable[Run], when: str = "midway") -> list[dict[str, str]]:
    """A row per step: the norm of the mean gradient of each arm, and its ratio to the spread; means over the seeds."""
    cells = by_arm(chosen(runs, GRADIENT, TUNING))
    table = []
    for i in (0, 1, 2, 4, 6, 8, 10):
        row = {"t / T": f"{i / 10:.1f}"}
        for arm, (label, _) in GRADIENT.items():
            at = [run["gradient"][when][i] for run in cells[arm]]
            row[f"{label}: signal"] = f"{statistics.mean(g['signal'] for g in at):.2g}"
            ratios = [g["signal"] / g["noise"] for g in at] if i else []
            row[f"{label}: to noise"] = f"{statistics.mean(ratios):.2f}" if ratios else ""
        table.append(row)
    return table


def gradient_share_rows(runs: Iterable[Run], when: str = "midway") -> list[dict[str, str]]:
    """A row per arm: shares in the sum of the norms of the mean gradients over the list that t is drawn from."""
    table = []
    for arm, seeds in by_arm(chosen(runs, GRADIENT, TUNING)).items():
        clean = ARMS[arm].noise.get("clean_share", 0.5)
        shares = []
        for run in seeds:
            clean_signal, *signal = (g["signal"] for g in run["gradient"][when])
            first, second = (statistics.mean(half) for half in (signal[:5], signal[5:]))
            parts = clean * clean_signal, (1 - clean) / 2 * first, (1 - clean) / 2 * second
            shares.append([part / sum(parts) for part in parts])
        cells = [f"{statistics.mean(share):.1%}" for share in zip(*shares, strict=True)]
        names = ("clean samples", "t up to T / 2", "t above T / 2")
        table.append({"arm": GRADIENT[arm][0], **dict(zip(names, cells, strict=True))})
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


def draw_effects(found: Sequence[Effect], path: Path) -> None:
    """All effects on modes and on good samples, with two standard errors to either side."""
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    modes, good = figure.subplots(1, 2, sharey=True)
    for axes, key, scale, title in ((modes, "modes", 1, "modes found"), (good, "good", 100, "good samples, points")):
        for i, e in enumerate(found):
            value, error = scale * getattr(e, key), scale * getattr(e, f"{key}_error")
            counts = abs(value) > 2 * error
            axes.errorbar(value, i, xerr=2 * error, fmt="o", ms=5, color=plots.BLUE if counts else "#b0b0b0", lw=1.2)
        axes.axvline(0, color=plots.INK, lw=0.8)
        axes.set_title(title, fontsize=11)
        plots.style(axes)
    modes.set_yticks(range(len(found)), [" x ".join(FACTORS[factor] for factor in e.factors) for e in found])
    modes.invert_yaxis()
    plots.save(figure, path)


def draw_gradients(runs: Iterable[Run], path: Path) -> None:
    """The gradient's signal, and its ratio to the noise, over t, midway and for every seed."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    signal, ratio = figure.subplots(1, 2)
    for arm, seeds in by_arm(chosen(runs, GRADIENT, TUNING)).items():
        label, colour = GRADIENT[arm]
        for i, run in enumerate(seeds):
            at = run["gradient"]["midway"]
            style = {"color": colour, "lw": 1.0, "alpha": 0.8, "label": None if i else label}
            signal.semilogy([g["t"] for g in at], [g["signal"] for g in at], **style)
            ratio.plot([g["t"] for g in at[1:]], [g["signal"] / g["noise"] for g in at[1:]], **style)
    for axes, title in (
        (signal, "norm of the mean gradient at G's samples"),
        (ratio, "its ratio to the noise's spread"),
    ):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("t")
        plots.style(axes)
    ratio.set_ylim(bottom=0)
    ratio.legend(frameon=False, fontsize=9)
    plots.save(figure, path)


def tables(runs: Sequence[Run]) -> Mapping[str, str]:
    """The tables of docs/gaussians25.md that are between markers."""
    return {
        "effects": markdown(effect_rows(effects(runs))),
        "design": markdown(rows(chosen(runs, (*DESIGN, "target-0.6", "embedding"), TUNING))),
        "gradient": markdown(gradient_rows(runs)),
        "gradient-shares": markdown(gradient_share_rows(runs)),
        "existing": markdown(rows(chosen(runs, EXISTING, TUNING))),
        "confirmed": markdown(rows(chosen(runs, ARMS, CONFIRMATION))),
    }


def main() -> None:
    runs = read(DOCS / "results" / RUNS)
    page = DOCS / "gaussians25.md"
    page.write_text(rewritten(page.read_text(), tables(runs)))
    draw_effects(effects(runs), DOCS / "images" / "gaussians25-effects.png")
    draw_gradients(runs, DOCS / "images" / "gaussians25-gradients.png")


if __name__ == "__main__":
    main()
