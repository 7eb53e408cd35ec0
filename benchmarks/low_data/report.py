"""Tables and pictures of finished runs.

The tables of docs/evidence.md and its pictures but for the samples are rewritten from docs/results/low-data by::

    python benchmarks/low_data/report.py
"""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, MAIN, PROJECTED_ARMS
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from train import Settings

from gan_regularizers.io import plots

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pages import markdown, rewritten

Run = dict[str, Any]
Cell = tuple[str, int]  # data, and images to train on

MEASURES = {  # heading and decimals; the first one where D sees images by lite0
    "kid_lite2": ("KID-lite2 x 1000", 0),
    "kid": ("KID-lite0 x 1000", 0),
    "fd": ("FD-lite0", 0),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "copied": ("copied", 2),
    "gap": ("gap", 2),
    "r_d": ("r_d", 2),
    "T": ("T", 0),
}
_FURTHER_COLOURS = (*colormaps["tab20b"].colors, *colormaps["tab20c"].colors)
_MAIN_COLOURS = (plots.RED, "#edae49", "#8ab6bd", plots.BLUE)
COLOURS = dict(zip(ARMS, (*_MAIN_COLOURS, *_FURTHER_COLOURS), strict=False))
COLOURS |= zip(PROJECTED_ARMS, (*_MAIN_COLOURS, "#7a5c91"), strict=True)
SHOWN_IMAGES = "thousand real images shown"
OUTPUTS = {
    "D_train": ("training", plots.BLUE),
    "D_held_out": ("held-out", "#edae49"),
    "D_generated": ("generated", plots.RED),
}
SHOWN = 10
DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "results" / "low-data"


def read(path: Path) -> list[Run]:
    """The runs of a file; a line with settings begins each. The gap is D's, between training and held-out images.

    Runs of before there was a setting had what is its default now.
    """
    runs: list[Run] = []
    for line in map(json.loads, path.read_text().splitlines()):
        if "settings" in line:
            runs.append({**line, "settings": asdict(Settings(**line["settings"])), "evaluations": []})
        elif "D_train" in line:
            runs[-1]["evaluations"].append({**line, "gap": line["D_train"] - line["D_held_out"]})
        else:  # its numbers were not finite
            runs[-1]["evaluations"].append(line)
    return runs


def comparable(runs: Iterable[Run], settings: Mapping[str, Any]) -> list[Run]:
    """Those that are as long and were trained and measured in the same way, and whose numbers are finite."""
    same = ("kimg", "every", "resolution", "samples", "learning_rate", "d_steps", "width", "precision")
    return [run for run in runs if finite(run) and all(run["settings"][name] == settings[name] for name in same)]


def finite(run: Run) -> bool:
    """Whether it was trained to its end, rather than to numbers that are not finite."""
    return "kid" in run["evaluations"][-1]


def by_cell(runs: Iterable[Run], arms: Sequence[str] = tuple(ARMS)) -> dict[Cell, dict[str, list[Run]]]:
    """Runs by data and size and then by arm, in the order of ``arms``; seeds ascend."""
    chosen = [run for run in runs if run["settings"]["arm"] in arms]
    cells: dict[Cell, dict[str, list[Run]]] = {}
    for run in sorted(chosen, key=lambda run: (arms.index(run["settings"]["arm"]), run["settings"]["seed"])):
        cells.setdefault(_cell(run), {}).setdefault(run["settings"]["arm"], []).append(run)
    return dict(sorted(cells.items()))


def _cell(run: Run) -> Cell:
    return run["settings"]["data"], run["settings"]["images"]


def rows(runs: Iterable[Run], arms: Sequence[str] = tuple(ARMS)) -> list[dict[str, str]]:
    """A row per data, size and arm, at the end of training: mean and standard deviation over the seeds; and floors."""
    table = []
    for (data, images), cell in by_cell(runs, arms).items():
        place = {"data": data, "images": str(images)}
        for arm, seeds in cell.items():
            ends = [run["evaluations"][-1] for run in seeds]
            measures = {key: MEASURES[key] for key in MEASURES if key in ends[0]}
            figures = {heading: spread([end[key] for end in ends], n) for key, (heading, n) in measures.items()}
            table.append({**place, "arm": arm, "seeds": str(len(seeds)), **figures})
        floor = seeds[0]["floor"]
        figures = {heading: spread([floor[key]], n) if key in floor else "" for key, (heading, n) in measures.items()}
        table.append({**place, "arm": "*real images*", "seeds": "", **figures})
    return table


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean ± standard deviation; the mean alone where there is one value."""
    mean = f"{round(statistics.mean(values), decimals) + 0.0:.{decimals}f}"  # 0 rather than -0
    return f"{mean} ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else mean


def console_table(runs: Iterable[Run]) -> Table:
    """``rows`` for a terminal."""
    lines = rows(runs)
    table = Table(*lines[0], title="At the end of training, mean ± standard deviation over the seeds")
    for line in lines:
        table.add_row(*line.values())
    return table


def draw_curves(
    runs: Iterable[Run],
    path: Path,
    arms: Sequence[str] = tuple(ARMS),
    kinds: Sequence[str] = ("kid", "gap", "T"),
) -> None:
    """KID, D's gap and T, or other measures, over the images shown, for every data and size."""
    cells = by_cell(runs, arms)
    figure = Figure(figsize=(1.2 + 3.2 * max(len(cells), 2), 2.5 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(cells), sharex="col", sharey="row", squeeze=False)
    for column, ((data, images), cell) in zip(panels.T, cells.items(), strict=True):
        column[0].set_title(f"{data}, {images} images", fontsize=11)
        column[-1].set_xlabel(SHOWN_IMAGES)
        for axes, key in zip(column, kinds, strict=True):
            _draw_arms(axes, cell, key)
    for axes, key in zip(panels[:, 0], kinds, strict=True):
        axes.set_ylabel(MEASURES[key][0])
    labelled = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels[0])
    handles = {label: handle for pairs in labelled for handle, label in pairs}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    plots.save(figure, path)


def draw_outputs(runs: Iterable[Run], path: Path, arms: Sequence[str] = tuple(ARMS)) -> None:
    """D's mean outputs over the images shown, for every data and size and every arm."""
    cells = by_cell(runs, arms)
    columns = [arm for arm in arms if any(arm in cell for cell in cells.values())]
    figure = Figure(figsize=(1.2 + 2.6 * len(columns), 0.8 + 2.1 * len(cells)), layout="constrained")
    panels = figure.subplots(len(cells), len(columns), sharex=True, sharey="row", squeeze=False)
    for row, ((data, images), cell) in zip(panels, cells.items(), strict=True):
        row[0].set_ylabel(f"{data},\n{images} images")
        for axes, arm in zip(row, columns, strict=True):
            _draw_outputs(axes, cell.get(arm, []))
    for axes, arm in zip(panels[0], columns, strict=True):
        axes.set_title(arm, fontsize=11)
    for axes in panels[-1]:
        axes.set_xlabel(SHOWN_IMAGES, fontsize=9)
    panels[0, 0].legend(frameon=False, fontsize=9, title="D's logit on images")
    plots.save(figure, path)


def draw_summary(runs: Iterable[Run], path: Path) -> None:
    """D's outputs without a regularizer and with DiffAugment, and KID of all arms, for the first data and size."""
    (data, images), cell = next(iter(by_cell(runs).items()))
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    first, second, last = figure.subplots(1, 3)
    second.sharey(first)
    for axes, arm in ((first, "none"), (second, "diffaug")):
        _draw_outputs(axes, cell[arm])
        axes.set_title(f"D's logit, {arm}", fontsize=11)
    first.legend(frameon=False, fontsize=9, title=f"{images} images of {data}")
    _draw_arms(last, cell, "kid")
    last.set_title(MEASURES["kid"][0], fontsize=11)
    last.set_ylim(bottom=-50)
    last.legend(frameon=False, fontsize=9)
    for axes in (first, second, last):
        axes.set_xlabel(SHOWN_IMAGES, fontsize=9)
    plots.save(figure, path)


def _draw_arms(axes: Axes, cell: Mapping[str, Sequence[Run]], key: str) -> None:
    """A measure of each arm: thin lines for the seeds, a thick one for their mean; and the floor, if it has one."""
    for arm, seeds in cell.items():
        for run in seeds:
            axes.plot(*_course([run], key), color=COLOURS[arm], lw=0.6, alpha=0.6)
        axes.plot(*_course(seeds, key), color=COLOURS[arm], lw=2.2, label=arm)
    floor = seeds[0]["floor"]
    if key in floor:
        axes.axhline(floor[key], color=plots.INK, lw=1, ls="--", label="real images")
    plots.style(axes)


def _draw_outputs(axes: Axes, seeds: Sequence[Run]) -> None:
    """D's mean outputs on clean training, held-out and generated images, means over the seeds."""
    for key, (label, colour) in OUTPUTS.items():
        axes.plot(*_course(seeds, key), color=colour, lw=2, label=label)
    plots.style(axes)


def _course(seeds: Sequence[Run], key: str) -> tuple[list[float], list[float]]:
    """Thousand images shown, and the mean of a measure over the seeds."""
    entries = list(zip(*(run["evaluations"] for run in seeds), strict=True))
    return [at[0]["kimg"] for at in entries], [statistics.mean(entry[key] for entry in at) for at in entries]


def draw_samples(folder: Path, runs: Sequence[Run], path: Path) -> None:
    """For the first seed of each data, size and arm: samples, and below them the training images nearest to each.

    Of the runs whose folders are there.
    """
    folders = {id(run): folder / Settings(**run["settings"]).name for run in runs}
    cells = by_cell(run for run in runs if (folders[id(run)] / "samples.npz").exists())
    count = sum(map(len, cells.values()))
    if not count:
        return
    figure = Figure(figsize=(7.5, 0.3 + count), layout="compressed")
    panels = iter(figure.subplots(count, 1, squeeze=False).flat)
    for (data, images), cell in cells.items():
        for arm, (first, *_) in cell.items():
            with np.load(folders[id(first)] / "samples.npz") as shown:
                strips = [np.concatenate(shown[kind][:SHOWN], 2) for kind in ("generated", "nearest")]
            axes = next(panels)
            axes.imshow(np.concatenate(strips, 1).transpose(1, 2, 0), interpolation="nearest")
            label = f"{data}, {images}\n{arm}\nKID-lite0 {first['evaluations'][-1]['kid']:.0f}"
            axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    plots.save(figure, path)


def tables() -> dict[str, str]:
    """The tables of docs/evidence.md, by the names in its markers."""
    study, longer = (read(RESULTS / f"{name}.jsonl") for name in ("study", "longer"))
    changed = {_cell(run) for run in study if run["settings"]["arm"] not in MAIN}
    return {
        "arms": markdown(rows(study, MAIN)),
        "longer": markdown(rows(longer)),
        "changed": markdown(rows(run for run in study if _cell(run) in changed)),
        "gap-by-t": markdown(gaps({images: RESULTS / f"gap-by-t-hands-{images}.json" for images in (100, 500)})),
    }


def gaps(paths: Mapping[int, Path]) -> list[dict[str, str]]:
    """A row per step of gap_by_t.py's files, by images to train on."""
    files = {images: json.loads(path.read_text())["rows"] for images, path in paths.items()}
    table = []
    for at in zip(*files.values(), strict=True):
        row = {"t / T": str(at[0]["t / T"])}
        for images, entry in zip(files, at, strict=True):
            row[f"{images} images: gap"] = f"{entry['gap']:.2f}"
            row[f"{images}: training real"] = f"{entry['train']:.0%}"
            row[f"{images}: held-out real"] = f"{entry['held_out']:.0%}"
        table.append(row)
    return table


def main() -> None:
    page = DOCS / "evidence.md"
    page.write_text(rewritten(page.read_text(), tables()))
    for name in ("study", "longer"):
        draw_curves(read(RESULTS / f"{name}.jsonl"), DOCS / "images" / f"low-data-{name}.png", MAIN)
    draw_outputs(read(RESULTS / "study.jsonl"), DOCS / "images" / "low-data-outputs.png", MAIN)
    draw_summary(read(RESULTS / "longer.jsonl"), DOCS / "images" / "low-data.png")


if __name__ == "__main__":
    main()
