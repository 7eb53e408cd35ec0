"""The picture of signed inception distances; needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ...io import plots
from ...spider.neighbours import CERTAIN, Neighbour

_TITLE_WIDTH, _LEGEND_WIDTH = 60, 40  # columns


def save(path: Path, neighbours: Sequence[Neighbour], metric: str, target: str) -> None:
    """Write a PNG: SID over the half-width of the cube, a line for each candidate, in the order of the ranking."""
    with plots.fonts_for(target, *(neighbour.name for neighbour in neighbours)):
        plots.save(_draw(neighbours, metric, target), path)


def _draw(neighbours: Sequence[Neighbour], metric: str, target: str) -> Figure:
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=plots.INK, lw=1, ls="--", label="a match")
    colours = matplotlib.colormaps["tab10"].colors
    for rank, neighbour in enumerate(neighbours):
        curve, colour = neighbour.curve, colours[rank % len(colours)]
        figures = f"{curve.csid:.3g} ± {CERTAIN * curve.csid_standard_error:.2g}"
        label = plots.label(f"{rank + 1}. {neighbour.name}: {figures}", _LEGEND_WIDTH)
        style = "-" if rank < len(colours) else ":"
        axes.plot(curve.half_widths, curve.sid, style, color=colour, lw=2, label=label)
        low, high = (
            [sid + side * CERTAIN * error for sid, error in zip(curve.sid, curve.standard_errors, strict=True)]
            for side in (-1, 1)
        )
        axes.fill_between(curve.half_widths, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_title(plots.label(f"SID-{metric} from {target}", _TITLE_WIDTH), fontsize=11, loc="left")
    axes.set_xlabel("half-width of the cube about the target's mean")
    axes.set_ylabel("less diverse  ←  SID  →  more spread, or shifted")
    plots.style(axes)
    legend = figure.legend(
        title=f"CSID-{metric} ± two standard errors", loc="outside right upper", frameon=False, fontsize=8
    )
    lines = sum(text.get_text().count("\n") + 1 for text in legend.get_texts())
    figure.set_figheight(max(4.8, 0.15 * lines + 1.0))
    return figure
