"""The picture of signed inception distances; needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .. import plots
from .neighbours import CERTAIN, Neighbour


def save(path: Path, neighbours: Sequence[Neighbour], metric: str, target: str) -> None:
    """Write a PNG: SID over the half-width of the cube, a line for each candidate, in the order of the ranking."""
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=plots.INK, lw=1, ls="--", label="a match")
    colours = matplotlib.colormaps["tab10"].colors
    for rank, neighbour in enumerate(neighbours):
        curve, colour = neighbour.curve, colours[rank % len(colours)]
        label = f"{rank + 1}. {_plain(neighbour.name)}: {curve.csid:.3g} ± {CERTAIN * curve.csid_standard_error:.2g}"
        style = "-" if rank < len(colours) else ":"
        axes.plot(curve.half_widths, curve.sid, style, color=colour, lw=2, label=label)
        low, high = (
            [sid + side * CERTAIN * error for sid, error in zip(curve.sid, curve.standard_errors, strict=True)]
            for side in (-1, 1)
        )
        axes.fill_between(curve.half_widths, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_title(f"SID-{metric} from {_plain(target)}", fontsize=11, loc="left")
    axes.set_xlabel("half-width of the cube about the target's mean")
    axes.set_ylabel("less diverse  ←  SID  →  more spread, or shifted")
    plots.style(axes)
    figure.legend(title=f"CSID-{metric} ± two standard errors", loc="outside right upper", frameon=False, fontsize=8)
    plots.save(figure, path)


def _plain(name: str) -> str:
    """A name that matplotlib does not read as mathematics."""
    return name.replace("$", r"\$")
