"""Patches of upstream repositories: recognises a checkout, inserts our lines into it and takes them out again.

``patches/<name>/`` has a ``pin.json``, which names the commit and the blob id of every file that is touched, and two
patches. They insert lines and carry none of upstream's, so that blob ids, not context, say whether a file is the right
one. Nothing here needs git.
"""

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .errors import CommandError
from .files import replace_together

PATCHES = ("modern-torch", "regularizers")
PACKAGE = Path(__file__).parent

_FILE = re.compile(r"--- a/(?P<path>.+)\n\+\+\+ b/(?P=path)\n(?P<hunks>(?:@@ .*\n(?:\+.*\n)+)+)")
_HUNK = re.compile(r"@@ -(\d+),0 \+(\d+)(?:,(\d+))? @@\n((?:\+.*\n)+)")


class State(Enum):
    """What a file of a checkout is, beside what upstream and the patches say."""

    ORIGINAL = "original"
    PATCHED = "patched"
    BY_HAND = "looks patched by hand, or edited since"  # it differs, but all our lines are in it
    MODIFIED = "modified"
    MISSING = "missing"


@dataclass(frozen=True)
class Insertion:
    """Lines, without their ends, that go in after a line of the original; where is that place in words."""

    after: int
    lines: tuple[bytes, ...]
    where: str


@dataclass(frozen=True)
class File:
    """A file that a patch touches, as bytes: it may begin with a byte-order mark and end its lines with CRLF."""

    path: str
    blob: str
    patch: str
    insertions: tuple[Insertion, ...]

    @property
    def count(self) -> int:
        """How many lines go in."""
        return sum(len(insertion.lines) for insertion in self.insertions)

    def state(self, content: bytes | None) -> State:
        """What content is; None where there is no file."""
        if content is None:
            return State.MISSING
        if self._is_original(content):
            return State.ORIGINAL
        without = self.remove(content)
        if without is not None and self._is_original(without):
            return State.PATCHED
        return State.BY_HAND if len(self.found(content)) == len(self.insertions) else State.MODIFIED

    def insert(self, content: bytes) -> bytes:
        """The original with our lines, which end as its first line does."""
        if self.insertions[-1].after > content.count(b"\n"):
            raise ValueError(f"{self.path} has no {self.insertions[-1].after} whole lines to insert after")
        lines = _lines(content)
        end = b"\r\n" if lines and lines[0].endswith(b"\r\n") else b"\n"
        for insertion in reversed(self.insertions):
            lines[insertion.after : insertion.after] = [line + end for line in insertion.lines]
        return b"".join(lines)

    def remove(self, content: bytes) -> bytes | None:
        """The content without our lines; None where they are not at their places."""
        lines = _lines(content)
        for insertion in self.insertions:  # what was before is out already, so that after counts as in the original
            place = slice(insertion.after, insertion.after + len(insertion.lines))
            if tuple(map(_bare, lines[place])) != insertion.lines:
                return None
            del lines[place]
        return b"".join(lines)

    def found(self, content: bytes) -> list[tuple[int, Insertion]]:
        """Those of the insertions that are somewhere in content, in their order, with the number of the first line."""
        lines, start, found = tuple(map(_bare, _lines(content))), 0, []
        for insertion in self.insertions:
            size = len(insertion.lines)
            places = (i for i in range(start, len(lines) - size + 1) if lines[i : i + size] == insertion.lines)
            if (place := next(places, None)) is not None:
                found.append((place + 1, insertion))
                start = place + size
        return found

    def _is_original(self, content: bytes) -> bool:
        return self.blob in (_blob_id(content), _blob_id(content.replace(b"\r\n", b"\n")))


@dataclass(frozen=True)
class Pin:
    """A repository at the commit that its patches were made for."""

    name: str
    repository: str
    commit: str
    files: tuple[File, ...]

    def __str__(self) -> str:
        """Such as ``NVlabs/stylegan3 at c233a91``."""
        return f"{self.repository} at {self.commit[:7]}"


@dataclass(frozen=True)
class Tree:
    """A checkout of a pin's repository, as it was when it was read."""

    path: Path
    pin: Pin
    contents: Mapping[File, bytes | None]

    def state(self, file: File) -> State:
        """What the checkout has of a file."""
        return file.state(self.contents[file])


def pins(folder: Path | None = None) -> tuple[Pin, ...]:
    """The repositories that a folder has patches for, by default the package's.

    Raises:
        CommandError: there are none.
        ValueError: a patch does more than insert lines, or pin.json and the patches disagree.
    """
    folder = folder or patches_folder(PACKAGE)
    found = tuple(_pin(path.parent) for path in sorted(folder.glob("*/pin.json")))
    if not found:
        raise CommandError(f"there are no patches in {folder}; install gan-regularizers again")
    return found


def patches_folder(package: Path) -> Path:
    """Where the patches lie: in an installed package, or beside it in a source tree."""
    inside = package / "patches"
    return inside if inside.exists() else package.parent / "patches"


def inspect(path: Path, folder: Path | None = None) -> Tree:
    """Recognise the checkout in a folder by the files that are as the pin or its patches have them.

    Repositories share files: of those with equally many such files, it is the one of which most files are there at
    all, then the one of which fewest are missing.
    """
    known = pins(folder)
    if not path.exists():
        raise CommandError(f"no such folder: {path}")
    if not path.is_dir():
        raise CommandError(f"{path} is a file; name the folder with train.py of a checkout, such as {path.parent}")
    if tree := _recognise(path, known):
        return tree
    if near := list(_checkouts_near(path, known)):
        raise CommandError(f"{path} is no checkout itself; name the one in or around it: {', '.join(map(str, near))}")
    raise CommandError(
        f"{path} is unknown, because no file in it is as in {', '.join(map(str, known))}; name the folder with "
        "train.py of a checkout of one of these commits"
    )


def pending(tree: Tree, only: str | None = None, reverse: bool = False) -> list[File]:
    """The files that would change if a patch, or both, were applied or reversed.

    Raises:
        CommandError: files differ from what upstream and the patches say; it has the lines to insert or to take out by
            hand. Files that were patched by hand need nothing more, but stand in the way of the reverse.
    """
    files = [file for file in tree.pin.files if only in (None, file.patch)]
    states = {file: tree.state(file) for file in files}
    differ = [file for file in files if states[file] in (State.MODIFIED, State.MISSING, State.BY_HAND)]
    if reverse:
        by_hand = {file: file.found(tree.contents[file] or b"") for file in differ}
        how = "take these lines out by hand, then run this again to take out the rest"
        place = "from line {} on"
    else:
        differ = [file for file in differ if states[file] is not State.BY_HAND]
        by_hand = {file: [(insertion.after, insertion) for insertion in file.insertions] for file in differ}
        how = "insert these lines by hand, then run this again to insert the rest"
        place = "after line {} of the original"
    if stuck := [file for file in differ if by_hand[file]]:
        named = ", ".join(f"{file.path} ({states[file].value})" for file in stuck)
        raise CommandError(
            f"{tree.path} is like {tree.pin}, but of the {len(files)} files to change these differ: {named}. "
            f"Nothing was changed. Put back what upstream has, or {how}:\n"
            + "".join(_by_hand(tree.pin, file, place, by_hand[file]) for file in stuck).rstrip("\n")
        )
    wanted = State.PATCHED if reverse else State.ORIGINAL
    return [file for file in files if states[file] is wanted]


def apply(tree: Tree, only: str | None = None) -> list[File]:
    """Insert the lines of a patch, or of both, that are not in yet; returns the files that changed, all or none."""
    files = pending(tree, only)
    if not files:
        patched = f"has the {only} patch" if only else "is patched"
        raise CommandError(f"{tree.path} {patched} already; --reverse takes the lines out")
    return _replace(tree, {file: file.insert(tree.contents[file]) for file in files})


def reverse(tree: Tree, only: str | None = None) -> list[File]:
    """Take out the lines of a patch, or of both, that are in; returns the files that changed, all or none."""
    files = pending(tree, only, reverse=True)
    if not files:
        patches = f"the {only} patch" if only else "the patches"
        raise CommandError(f"{tree.path} is not patched: no line of {patches} is at its place")
    return _replace(tree, {file: file.remove(tree.contents[file]) for file in files})


def _replace(tree: Tree, contents: Mapping[File, bytes]) -> list[File]:
    replace_together({(tree.path / file.path).resolve(): content for file, content in contents.items()})
    return list(contents)


def _by_hand(pin: Pin, file: File, place: str, insertions: Sequence[tuple[int, Insertion]]) -> str:
    """What to do by hand with a file, with the lines as in a patch."""
    text = f"\n{file.path}, in the original https://github.com/{pin.repository}/blob/{pin.commit}/{file.path}\n"
    for line, insertion in insertions:
        text += f"  {place.format(line)}, {insertion.where}:\n"
        text += "".join(f"    +{line.decode()}\n" for line in insertion.lines)
    return text


def _recognise(path: Path, known: Collection[Pin]) -> Tree | None:
    trees = [Tree(path, pin, {file: _content(path / file.path) for file in pin.files}) for pin in known]
    best = max(trees, key=_likeness)
    return best if _likeness(best)[0] else None


def _likeness(tree: Tree) -> tuple[int, int, int]:
    states = [tree.state(file) for file in tree.pin.files]
    as_expected = sum(state in (State.ORIGINAL, State.PATCHED) for state in states)
    missing = states.count(State.MISSING)
    return as_expected, len(states) - missing, -missing


def _checkouts_near(path: Path, known: Collection[Pin]) -> Iterator[Path]:
    children = sorted(child for child in path.iterdir() if child.is_dir())
    for folder in (path.resolve().parent, *children):
        with suppress(OSError):  # somebody else's
            if _recognise(folder, known):
                yield folder


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _lines(content: bytes) -> list[bytes]:
    """Lines with their ends, where only a newline ends one, as for git."""
    return io.BytesIO(content).readlines()


def _bare(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _blob_id(content: bytes) -> str:
    """Git's name of a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _pin(folder: Path) -> Pin:
    fields = json.loads((folder / "pin.json").read_text(encoding="utf-8"))
    expected = dict(fields["files"])
    files = []
    for patch in PATCHES:
        for path, hunks in _parse(folder / f"{patch}.patch").items():
            if path not in expected:
                raise ValueError(f"{folder}: {patch}.patch touches {path}, which pin.json lacks or the other patch has")
            blob, where = expected[path]["blob"], expected.pop(path)["where"]
            if len(where) != len(hunks):
                raise ValueError(f"{folder}: {path} has {len(hunks)} hunks, but {len(where)} words of where they go")
            insertions = tuple(Insertion(*hunk, words) for hunk, words in zip(hunks, where, strict=True))
            files.append(File(path, blob, patch, insertions))
    if expected:
        raise ValueError(f"{folder}: no patch touches {', '.join(expected)}")
    for sha in (fields["commit"], *(file.blob for file in files)):
        if not re.fullmatch("[0-9a-f]{40}", sha):
            raise ValueError(f"{folder}: pin.json: {sha!r} is no name of a commit or a blob; give all 40 digits")
    return Pin(folder.name, fields["repository"], fields["commit"], tuple(files))


def _parse(patch: Path) -> dict[str, list[tuple[int, tuple[bytes, ...]]]]:
    """By path: after which lines of the original which lines go in."""
    text = patch.read_text(encoding="utf-8")
    files, position = {}, 0
    while position < len(text) or not files:
        match = _FILE.match(text, position)
        if not match or match["path"] in files:
            line = text.count("\n", 0, position) + 1
            raise ValueError(
                f"{patch}, line {line}: expected a file that was not there before, with inserted lines alone"
            )
        files[match["path"]] = list(_hunks(match["hunks"], f"{patch}, {match['path']}"))
        position = match.end()
    return files


def _hunks(text: str, source: str) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    inserted, last = 0, -1
    for header in re.findall(r"^@@.*\n(?:\+.*\n)+", text, flags=re.MULTILINE):
        match = _HUNK.fullmatch(header)
        after, start, size = (int(number or 1) for number in match.groups()[:3]) if match else (0, 0, 0)
        lines = tuple(line[1:].encode() for line in header.split("\n")[1:-1])
        if after <= last or start != after + inserted + 1 or size != len(lines):
            raise ValueError(
                f"{source}: {header.partition(chr(10))[0]!r} is not the place of {len(lines)} inserted lines"
            )
        yield after, lines
        inserted, last = inserted + size, after
