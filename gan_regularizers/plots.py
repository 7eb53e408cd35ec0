"""What the package's pictures have in common; needs matplotlib."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .files import write_atomically

RED, BLUE = "#d1495b", "#00798c"
INK = "#333333"


def style(axes: Axes) -> None:
    """Fewer lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(path, stream.getvalue())
