"""What the package's pictures have in common; needs matplotlib."""

import contextlib
import io
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from rich.cells import chop_cells

from .files import write_atomically
from .terminal import escaped, printable

RED, BLUE = "#d1495b", "#00798c"
INK = "#333333"
_OWN_FONT = "DejaVu Sans"  # which matplotlib brings along
LEFT_TO_RIGHT = "\u200e"  # a mark that is not seen


def style(axes: Axes) -> None:
    """Fewer lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


@contextlib.contextmanager
def fonts_for(*names: str) -> Iterator[None]:
    """Draw all text in a ``with`` block as it is, no part of it as a formula, in fonts that have what is in names."""
    families = [_OWN_FONT, *_further_fonts(_lacking("".join(map(printable, names)), _OWN_FONT))]
    logger = logging.getLogger("matplotlib.font_manager")  # which says so where a font has but one weight
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context({"text.parse_math": False, "font.family": families}):
            yield
    finally:
        logger.setLevel(level)


def label(name: str, width: int) -> str:
    """A name as it can be drawn, in lines of at most so many columns, of which Chinese characters take two.

    What stands before and after letters from right to left, such as figures, stays there.
    """
    lacking = _lacking(printable(name), *matplotlib.rcParams["font.family"])
    drawn = "".join(escaped(character) if character in lacking else character for character in printable(name))
    return "\n".join(map(_in_order, chop_cells(drawn, width)))


def _in_order(line: str) -> str:
    """Set what stands before and after letters from right to left where it stands in the line."""
    end = max((i for i, letter in enumerate(line, 1) if unicodedata.bidirectional(letter) in ("R", "AL")), default=0)
    return f"{LEFT_TO_RIGHT}{line[:end]}{LEFT_TO_RIGHT}{line[end:]}" if end else line


def _lacking(text: str, *families: str) -> set[str]:
    """The characters of a text that none of some fonts has."""
    fonts = [get_font(findfont(FontProperties(family=family))) for family in families]
    return {character for character in text if not any(ord(character) in font.get_charmap() for font in fonts)}


def _further_fonts(characters: set[str]) -> list[str]:
    """Fonts of this machine that have some characters, as many of these as there are."""
    families = []
    for entry in fontManager.ttflist if characters else ():
        try:
            known = get_font(entry.fname).get_charmap()
        except RuntimeError:  # such as one of pictures
            continue
        if not entry.name.startswith("Last Resort") and any(ord(character) in known for character in characters):
            families.append(entry.name)
            characters = {character for character in characters if ord(character) not in known}
    return families


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(path, stream.getvalue())
