"""The benchmark's picture: every competitor's time in times of a copy."""

import math
import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...io import plots
from .cases import CLONE, COMPETITORS, OURS
from .report import Case, Result, batch_name, heading, relative_to_clone, several_threads, three_digits

COLOURS = dict(
    zip(
        COMPETITORS,
        (
            *("#00798c", "#003d5b", "#8ab6bd", "#edae49", "#c77f1a", "#d1495b", "#8a1c30", "#8d3b72"),
            *("#6a994e", "#a7c957", "#333333"),
        ),
        strict=True,
    )
)
CLONE_LINE = "torch.clone"
BAR_INCHES = 0.19
TITLE_CHARACTERS = 13  # in an inch of the title
LEGEND_INCHES = 3.0  # of the longest name


def save(path: Path, result: Result) -> None:
    """A panel for every part and mode; bars per batch and competitor on a logarithmic axis."""
    cases = result["cases"]
    parts, modes = (list(dict.fromkeys(case[key] for case in cases)) for key in ("part", "mode"))
    of_part = {part: [case for case in cases if case["part"] == part] for part in parts}
    name_of = _name_with_threads if several_threads(cases) else batch_name
    batches = {part: list(dict.fromkeys(map(name_of, of_part[part]))) for part in parts}
    timed = {part: set().union(*map(relative_to_clone, of_part[part])) - {CLONE} for part in parts}
    shown = {part: [name for name in COMPETITORS if name in timed[part]] for part in parts}
    heights = [len(batches[part]) * (len(shown[part]) + 1) * BAR_INCHES + 0.7 for part in parts]
    width = 4.2 * len(modes) + 1
    figure = Figure(layout="constrained")
    grid = figure.subplots(len(parts), len(modes), sharex=True, sharey="row", squeeze=False, height_ratios=heights)
    for axes_of_part, part in zip(grid, parts, strict=True):
        for axes, mode in zip(axes_of_part, modes, strict=True):
            found = {name_of(case): relative_to_clone(case) for case in of_part[part] if case["mode"] == mode}
            _panel(axes, found, batches[part], shown[part])
            axes.set_title(f"{part}, {mode}", loc="left", fontsize=10)
    far = max(ratio for case in cases for ratio in relative_to_clone(case).values()) > 1000
    for axes in grid[-1]:
        axes.set_xlabel("time / time of torch.clone")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if far else (1.0, 3.0)))
    handles = {
        label: handle for axes in grid[:, 0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [name for name in (*COMPETITORS, CLONE_LINE) if name in handles]
    columns = int(width / LEGEND_INCHES)
    figure.set_size_inches(width, sum(heights) + 0.8 + math.ceil(len(order) / columns) * BAR_INCHES)
    figure.legend(
        [handles[name] for name in order],
        order,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    title = textwrap.fill(heading(result), int(TITLE_CHARACTERS * width))
    figure.suptitle(title, fontsize=9, color="#666666")
    plots.save(figure, path)


def _name_with_threads(case: Case) -> str:
    return f"{batch_name(case)}\n{case['threads']} threads"


def _panel(axes: Axes, found: dict[str, dict[str, float]], batches: list[str], shown: list[str]) -> None:
    for i, name in enumerate(shown):
        places = [group * (len(shown) + 1) + i for group in range(len(batches))]
        ratios = [found.get(batch, {}).get(name) for batch in batches]
        widths = [1.0 if ratio is None else ratio for ratio in ratios]
        axes.barh(places, [width - 1 for width in widths], 0.9, left=1.0, color=COLOURS[name], label=name)
        for place, ratio in zip(places, ratios, strict=True):
            if ratio is not None:
                weight = "bold" if name == OURS else "normal"
                text = f" {three_digits(ratio)}"
                axes.text(max(ratio, 1.0), place, text, va="center", fontsize=7, fontweight=weight)
    axes.axvline(1.0, color="#333333", lw=1, label=CLONE_LINE)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([group * (len(shown) + 1) + (len(shown) - 1) / 2 for group in range(len(batches))], batches)
    axes.set_ylim((len(shown) + 1) * len(batches) - 0.8, -1.2)
    axes.margins(x=0.15)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.tick_params(axis="x", labelsize=8)
