"""The command ``gan-regularizers patch``."""

import shlex
from pathlib import Path

from ..adapters import patching
from ..adapters.places import ADAPTERS
from ..io import options
from ..io.errors import CommandError
from ..io.terminal import print_rows
from ._options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "patch", help="write them into a checkout of a StyleGAN or its forks", description=patch.__doc__
    )
    command.set_defaults(command=patch)
    add = command.add_argument
    add("path", nargs="?", type=options.path, metavar="PATH", help="the folder with train.py of a checkout")
    add("--check", action="store_true", help="change nothing; show as a diff what would be done")
    add("--reverse", action="store_true", help="take the lines out again")
    add("--only", choices=tuple(patching.PATCHES), help="one of the patches (default: both)")
    add(
        "--list",
        dest="known",
        action="store_true",
        help="name the commits that have patch files, and the kinds that are known",
    )


def patch(path: Path | None, check: bool, reverse: bool, known: bool, only: str | None) -> None:
    """Insert the lines that bring the regularizers into a checkout, at places found by structure, or take them out."""
    if known:
        if path or check or reverse or only:
            raise CommandError("--list says what is known, without PATH or another option; leave those out")
        print("Kinds of checkouts, told by their structure:")
        print_rows(ADAPTERS)
        print("\nCommits that have patch files:")
        print_rows({pin.name: str(pin) for pin in patching.pins()})
        return
    if path is None:
        raise CommandError("name the folder with train.py of a checkout; --list says of which kinds")
    find = patching.removals if reverse else patching.insertions
    edits = find(path, only)
    if not reverse:
        print(patching.describe(path))
    if check:
        print("\n".join(map(str, edits)))
    elif edits:
        patching.write(path, edits)
    elif reverse:
        raise CommandError(f"{path} is not patched: it has no line of {f'the {only} patch' if only else 'ours'}")
    else:
        patched = f"has the {only} patch" if only else "is patched"
        raise CommandError(f"{path} {patched} already; --reverse takes the lines out")
    done = f"{'would be ' * check}{'taken out' if reverse else 'inserted'}"
    print_rows({edit.path: f"{_lines(edit.count)} {done}" for edit in edits} or {"nothing": done})
    if not check and not reverse:
        print(f"Next: cd {shlex.quote(str(path))} && python train.py --help")


def _lines(count: int) -> str:
    return f"{count} line{'s' * (count != 1)}"
