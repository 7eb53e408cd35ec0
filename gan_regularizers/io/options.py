"""Command-line options: numbers in an interval, and errors in one line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from .. import arguments
from .errors import CommandError
from .files import check_folder
from .terminal import printable


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say it without the usage, and exit with status 2."""
        self.exit(2, f"{self.prog}: {printable(message)}\n")

    def make_folder(self, option: str, path: Path) -> None:
        """Make the folder that an option names, or say why it cannot be written to."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            check_folder(path)
        except OSError as error:
            self.error(f"{option} {path}: {error.strerror}")


def number(interval: str) -> Callable[[str], float]:
    """An argparse type: a number in an interval such as ``"[0, 1)"``."""
    return _type(arguments.number, interval)


def whole_number(interval: str) -> Callable[[str], int]:
    """An argparse type: a whole number in an interval."""
    return _type(arguments.whole_number, interval)


def path(text: str) -> Path:
    """An argparse type: a path; an empty one, as of a variable that is not set, would mean the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no path; give one")
    return Path(text)


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """A reader of one of some names, for ``several``."""
    return lambda text: arguments.choice("value", text, names)


def several(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """An argparse type: values separated by commas, each at most once; read raises ValueError."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            return tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def find_device(name: str) -> str:
    """What ``cpu``, ``cuda`` or ``auto`` means on this machine.

    Raises:
        CommandError: there is no CUDA device.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise CommandError("--device cuda, but torch finds no CUDA device; use --device cpu")
    return "cuda" if available and name != "cpu" else "cpu"


def _type(check: Callable[[str, Any, str], Any], interval: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return check("value", float(text), interval)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
