"""The tables of docs/when.md and its pictures.

They are rewritten from docs/results/low-data by::

    python benchmarks/low_data/when.py                  # --runs when/runs for the pictures of samples too
"""

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import report
from arms import ARMS, MAIN, PROJECTED_ARMS
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from report import MEASURES, RESULTS, Run, finite, markdown, rewritten, spread
from train import Settings

from gan_regularizers.io import plots

GRID = {  # the arms of the first question, as the picture names them
    "bare": "nothing",
    "none": "R1",
    "bare+fixed-0.1": "fixed noise 0.1",
    "bare+fixed-0.3": "fixed noise 0.3",
    "bare+diffusion": "diffusion",
    "diffusion": "diffusion and R1",
    "bare+diffaug": "DiffAugment",
}
TOLD = ("untold", "t-raw-0", "t-raw", "scale-shift", "diffusion")
BESIDE = tuple(arm for arm in ARMS if arm.startswith(("diffaug", "both-target")))
REPORTED = 20  # the first seed that is; those below chose settings
UNTRAINED_KID = {"portraits": 1710.0, "cifar10": 1110.0}
WORSE = 1.5  # times the lowest KID of the run
RUNAWAY = 100.0  # a mean logit of D
DIVERSE = 0.5  # about that of one real image with a little noise
SHOWN = ("kid", "fd", "gap", "r_d", "T")
SURVIVAL = LinearSegmentedColormap.from_list("survival", ["#f3b9a9", "#f6ecd0", "#a9cdd3"])


def outcome(run: Run) -> str:
    """How a run ended: diverged, collapsed, stalled or survived; docs/when.md says what that means."""
    end = run["evaluations"][-1]
    evaluations = run["evaluations"]
    if not finite(run) or end["kid"] > WORSE * min(entry["kid"] for entry in evaluations):
        return "diverged"
    if largest_logit(run) > RUNAWAY:
        return "diverged"
    if end["diversity"] < DIVERSE:
        return "collapsed"
    return "stalled" if end["kid"] > UNTRAINED_KID[run["settings"]["data"]] else "survived"


def largest_logit(run: Run) -> float:
    """The largest magnitude of D's mean logit on training, held-out or generated images, at all evaluations."""
    measured = filter(lambda entry: "kid" in entry, run["evaluations"])
    return max((abs(entry[output]) for entry in measured for output in report.OUTPUTS), default=math.inf)


def by_point(runs: Iterable[Run]) -> dict[str, dict[tuple[float, int], dict[str, list[Run]]]]:
    """Runs by data, by learning rate and D's steps, and by arm; each in order."""
    points: dict[str, dict[tuple[float, int], dict[str, list[Run]]]] = {}
    order = tuple(GRID)
    chosen = (run for run in runs if run["settings"]["arm"] in order)
    for run in sorted(chosen, key=lambda run: order.index(run["settings"]["arm"])):
        s = run["settings"]
        points.setdefault(s["data"], {}).setdefault((s["learning_rate"], s["d_steps"]), {}).setdefault(
            s["arm"], []
        ).append(run)
    return {data: dict(sorted(of_data.items())) for data, of_data in points.items()}


def stability_rows(runs: Iterable[Run]) -> list[dict[str, str]]:
    """A row per data, learning rate, D's steps and arm: how the runs ended, and the measures of those that survived."""
    table = []
    for data, points in by_point(runs).items():
        for (rate, d_steps), arms in points.items():
            place = {"data": data, "learning rate": f"{rate:g}", "D steps": str(d_steps)}
            for arm, seeds in arms.items():
                survived, failed = split(seeds)
                ends = [run["evaluations"][-1] for run in survived]
                table.append(
                    {
                        **place,
                        "arm": arm,
                        "survived": f"{len(survived)} of {len(seeds)}",
                        "failed": failed,
                        "D's largest logit": f"{max(map(largest_logit, seeds)):.0f}",
                        **{MEASURES[key][0]: _spread([end[key] for end in ends], MEASURES[key][1]) for key in SHOWN},
                        "diversity": _spread([end["diversity"] for end in ends], 2),
                    }
                )
        floor = seeds[0]["floor"]
        figures = {MEASURES[key][0]: _spread([floor[key]], MEASURES[key][1]) if key in floor else "" for key in SHOWN}
        real = dict.fromkeys(table[-1], "") | {"data": data, "arm": "*real images*"}
        table.append(real | figures | {"diversity": _spread([floor["diversity"]], 2)})
    return table


def split(seeds: Sequence[Run]) -> tuple[list[Run], str]:
    """The runs that survived, and in words what became of the others, of most of them first."""
    outcomes = [outcome(run) for run in seeds]
    failed = Counter(each for each in outcomes if each != "survived")
    survived = [run for run, each in zip(seeds, outcomes, strict=True) if each == "survived"]
    return survived, ", ".join(f"{count} {each}" for each, count in failed.most_common())


def _spread(values: Sequence[float], decimals: int) -> str:
    return spread(values, decimals) if values else ""


def draw_map(runs: Iterable[Run], path: Path) -> None:
    """What each arm survives: a field per learning rate and number of D's steps."""
    points = by_point(runs)
    arms = [arm for arm in GRID if any(arm in of_point for of_data in points.values() for of_point in of_data.values())]
    widths = [len(of_data) for of_data in points.values()]
    figure = Figure(figsize=(2.0 + 1.5 * sum(widths), 1.3 + 0.62 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(points), width_ratios=widths, squeeze=False, sharey=True)[0]
    for axes, (data, of_data) in zip(panels, points.items(), strict=True):
        for x, of_point in enumerate(of_data.values()):
            for arm, seeds in of_point.items():
                survived, failed = split(seeds)
                kids = [run["evaluations"][-1]["kid"] for run in survived]
                y = arms.index(arm)
                axes.fill(
                    [x - 0.48, x + 0.48, x + 0.48, x - 0.48],
                    [y - 0.46, y - 0.46, y + 0.46, y + 0.46],
                    color=SURVIVAL(len(survived) / len(seeds)),
                )
                below = f"KID {statistics.mean(kids):.0f}" if kids else failed.partition(" ")[2].partition(",")[0]
                text = f"{len(survived)} of {len(seeds)}\n{below}"
                axes.text(x, y, text, ha="center", va="center", fontsize=9, color=plots.INK)
        labels = [f"{rate:g}" + (f"\n{d_steps} D steps" if d_steps > 1 else "") for rate, d_steps in of_data]
        axes.set_xticks(range(len(of_data)), labels)
        axes.set_yticks(range(len(arms)), [GRID[arm] for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_title(data, fontsize=11)
        axes.set_xlabel("learning rate")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    plots.save(figure, path)


def draw_samples(folder: Path, runs: Sequence[Run], images: Path) -> None:
    """Samples of the first seed of each arm, a column per learning rate and number of D's steps; a picture per data.

    Of the data whose runs all have their folders there.
    """
    paths = {id(run): folder / Settings(**run["settings"]).name / "samples.npz" for run in runs}
    first = [run for run in runs if run["settings"]["seed"] == REPORTED]
    for data, points in by_point(first).items():
        if not all(paths[id(run)].exists() for of_point in points.values() for (run,) in of_point.values()):
            continue
        arms = [arm for arm in GRID if any(arm in of_point for of_point in points.values())]
        figure = Figure(figsize=(1.5 + 4.4 * len(points), 0.4 + 0.5 * len(arms)), layout="compressed")
        panels = figure.subplots(len(arms), len(points), squeeze=False)
        for column, ((rate, d_steps), of_point) in zip(panels.T, points.items(), strict=True):
            steps = f", {d_steps} D steps" if d_steps > 1 else ""
            column[0].set_title(f"{data}, learning rate {rate:g}{steps}", fontsize=10)
            for axes, arm in zip(column, arms, strict=True):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                for run in of_point.get(arm, []):
                    with np.load(paths[id(run)]) as samples:
                        strip = np.concatenate(samples["generated"][: report.SHOWN], 2)
                    axes.imshow(strip.transpose(1, 2, 0), interpolation="nearest")
        for axes, arm in zip(panels[:, 0], arms, strict=True):
            axes.set_ylabel(GRID[arm], rotation=0, ha="right", va="center", fontsize=9)
        plots.save(figure, images / f"when-samples-{data}.png")


def lowest_rows(runs: Iterable[Run]) -> list[dict[str, str]]:
    """The rows at the end of training, and the lowest KID that each run has come by."""
    runs = list(runs)
    table = report.rows(runs, MAIN)
    lowest: dict[str, list[Run]] = {}
    for run in runs:
        lowest.setdefault(run["settings"]["arm"], []).append(min(run["evaluations"], key=lambda entry: entry["kid"]))
    for row in table:
        entries = lowest.get(row["arm"], [])
        row["lowest KID-lite0"] = _spread([entry["kid"] for entry in entries], 0)
        row["at kimg"] = _spread([entry["kimg"] for entry in entries], 0)
    return table


def tables() -> dict[str, str]:
    """The tables of docs/when.md, by the names in its markers; of the questions for which there are runs."""
    rows_of = {
        "telling-t": lambda runs: report.rows(runs, TOLD),
        "stability": stability_rows,
        "beside-diffaug": lambda runs: report.rows(runs, BESIDE),
        "features": lambda runs: report.rows(runs, PROJECTED_ARMS),
        "more-photos": lowest_rows,
    }
    return {name: markdown(rows(reported(name))) for name, rows in rows_of.items() if reported(name)}


def reported(name: str) -> list[Run]:
    """The runs of a question, but for those that chose its settings."""
    path = RESULTS / f"{name}.jsonl"
    runs = report.read(path) if path.exists() else []
    return [run for run in runs if run["settings"]["seed"] >= REPORTED]


def main() -> None:
    parser = argparse.ArgumentParser(prog="when.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--runs", type=Path, help="folder of the runs' folders, for pictures of their samples")
    args = parser.parse_args()
    page = report.DOCS / "when.md"
    page.write_text(rewritten(page.read_text(), tables()))
    images = report.DOCS / "images"
    if runs := reported("features"):
        report.draw_curves(runs, images / "when-features.png", PROJECTED_ARMS, ("kid_lite2", "kid", "gap", "T"))
    if runs := reported("more-photos"):
        report.draw_curves(runs, images / "when-more-photos.png", MAIN, ("kid", "gap", "r_d", "T"))
        if args.runs is not None:
            report.draw_samples(args.runs, runs, images / "when-samples-more-photos.png")
    if runs := reported("stability"):
        draw_map(runs, images / "when-stability.png")
        if args.runs is not None:
            draw_samples(args.runs, runs, images)


if __name__ == "__main__":
    main()
