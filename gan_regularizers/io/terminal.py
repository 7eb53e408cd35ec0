"""What is printed: whatever names are in it, and whatever it is printed to."""

import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Control characters, those of format, which may turn what follows about, bytes that are no UTF-8, ends of lines and
# paragraphs; but joiners make part of the letters and emoji beside them.
_WITHOUT_A_LOOK = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"


def printable(text: object) -> str:
    """A name, or a message with names in it, on one line: what has no look is escaped as in Python."""
    return "".join(
        escaped(character)
        if unicodedata.category(character) in _WITHOUT_A_LOOK and character not in _JOINERS
        else character
        for character in str(text)
    )


def print_rows(rows: Mapping[str, str]) -> None:
    """Print names and what there is to say of each, in two columns."""
    width = max([17, *map(len, rows)])
    for name, value in rows.items():
        print(f"{name:<{width}} {printable(value)}")


def take_all_characters() -> None:
    """Have stdout and stderr escape what their encoding lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def console() -> "Console":
    """A console of rich that leaves a pipe without a reader to the caller, where rich would exit."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that is being handled

    return Terminal()


def can_write(text: str, encoding: str) -> bool:
    """Whether an encoding has all characters of a text."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def flush() -> None:
    """Write what stdout holds back.

    Raises:
        OSError: it cannot be written; Python will not try again when it ends.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def escaped(character: str) -> str:
    """A character as Python writes it."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name
        return rf"\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
