"""Writes our lines into a checkout, at places found by its structure, and takes them out again.

``patches/<name>/`` has the same lines for one commit of each repository, as patches to read or for ``git apply``. They
insert lines and carry none of upstream's. Nothing here needs git.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..io.errors import CommandError
from ..io.files import replace_together
from . import places
from .places import ADAPTERS, Change, NoPlaceError

PATCHES = {
    "modern-torch": (lambda checkout: [places.of_package(checkout)], places.of_loops),
    "regularizers": (lambda checkout: [places.of_script(checkout)],),
}
PACKAGE = Path(__file__).parent.parent

# Where lines may be that come out again; version 0.1.0 had some in other files.
_LINES_OF = {
    "modern-torch": (places.DNNLIB, "training/*.py", "pg_modules/projector.py", "torch_utils/misc.py"),
    "regularizers": (places.TRAIN,),
}
_BY_HAND = """
dnnlib/__init__.py, above its first import:
    from gan_regularizers.adapters import modern_torch
training/training_loop.py, in training_loop(), once device is set and conv2d_gradfix is switched on:
    device = dnnlib.modern_torch.prepare(device)
train.py, beside the other imports, above an option of click, and before training is launched:
    from gan_regularizers.adapters import stylegan as regularizers
    @regularizers.options
    desc = regularizers.configure(c, desc)
where c has the keyword arguments of training_loop() and desc is the name of the run."""


@dataclass(frozen=True)
class Pin:
    """A repository at a commit, with the blob ids of the files that get lines."""

    name: str
    repository: str
    commit: str
    files: dict[str, str]

    def __str__(self) -> str:
        """Such as ``NVlabs/stylegan3 at c233a91``."""
        return f"{self.repository} at {self.commit[:7]}"


@dataclass(frozen=True)
class Edit:
    """A file of a checkout, as it is and as it is to be."""

    path: str
    before: bytes
    after: bytes

    @property
    def count(self) -> int:
        """How many lines come or go."""
        return abs(len(self.after.splitlines()) - len(self.before.splitlines()))

    def __str__(self) -> str:
        """As a unified diff."""
        before, after = (text.decode(errors="replace").splitlines() for text in (self.before, self.after))
        return "\n".join(difflib.unified_diff(before, after, f"a/{self.path}", f"b/{self.path}", lineterm=""))


def pins(folder: Path | None = None) -> tuple[Pin, ...]:
    """The commits that a folder has patches for, by default the package's."""
    folder = folder or patches_folder(PACKAGE)
    found = (
        json.loads(path.read_text(encoding="utf-8")) | {"name": path.parent.name} for path in folder.glob("*/pin.json")
    )
    return tuple(Pin(**fields) for fields in sorted(found, key=lambda fields: fields["name"]))


def patches_folder(package: Path) -> Path:
    """Where the patches lie: in an installed package, or beside it in a source tree."""
    inside = package / "patches"
    return inside if inside.exists() else package.parent / "patches"


def describe(checkout: Path) -> str:
    """What a checkout is: one of the pins, or what its training loop does.

    Raises:
        CommandError: it is no checkout, or its training loop is of an unknown kind.
    """
    _check(checkout)
    for pin in pins():
        if all(_blob_id(places.remove(_read(checkout / path))) == blob for path, blob in pin.files.items()):
            return str(pin)
    if not (checkout / places.TRAIN).exists():
        return f"{checkout}, without {places.TRAIN}"
    adapter = places.adapter_of(checkout)
    return f"{checkout}, by its structure: {ADAPTERS[adapter]}"


def insertions(checkout: Path, only: str | None = None) -> list[Edit]:
    """What inserts the lines of a patch, or of both, that are not in yet.

    Raises:
        CommandError: it is no checkout, or lacks places; it has what was looked for, and the lines to insert by hand.
    """
    _check(checkout)
    found = [change for patch in _chosen(only) for find in PATCHES[patch] for change in _changes(checkout, find)]
    if lacking := [change for change in found if isinstance(change, NoPlaceError)]:
        raise CommandError(
            f"{checkout} lacks places that our lines belong to. Nothing was changed.",
            "\n".join([*(f"  {problem}" for problem in lacking), f"By hand they would go into\n{_BY_HAND}"]),
        )
    return _edits(checkout, {change.path: _compiled(change) for change in found})


def removals(checkout: Path, only: str | None = None) -> list[Edit]:
    """What takes out the lines of a patch, or of both, wherever they are and whatever else was edited since.

    Raises:
        CommandError: it is no checkout, or a file would be no code any more without them.
    """
    _check(checkout)
    globs = [glob for patch in _chosen(only) for glob in _LINES_OF[patch]]
    paths = [path.relative_to(checkout).as_posix() for glob in globs for path in sorted(checkout.glob(glob))]
    if "modern-torch" in _chosen(only):
        paths += [path for path in places.loop_paths(checkout) if path not in paths]  # wherever they are
    return _edits(checkout, {path: places.remove(_read(checkout / path), path) for path in paths})


def write(checkout: Path, edits: list[Edit]) -> None:
    """Change all files or none, and keep their permissions.

    Raises:
        CommandError: one of them may not be written, or lies outside of the checkout.
    """
    for edit in edits:
        _check_writable(checkout, checkout / edit.path)
    try:
        replace_together({(checkout / edit.path).resolve(): edit.after for edit in edits})
    except OSError as error:
        raise CommandError(f"{checkout}: {error.strerror}. Nothing was changed") from error


def _check(checkout: Path) -> None:
    if not checkout.exists():
        raise CommandError(f"no such folder: {checkout}")
    if not checkout.is_dir():
        raise CommandError(
            f"{checkout} is a file; name the folder with train.py of a checkout, such as {checkout.parent}"
        )
    if not _is_checkout(checkout):
        near = ", ".join(map(str, _checkouts_near(checkout)))
        also = f"; name the one in or around it: {near}" if near else f": there is no {places.DNNLIB} in it"
        raise CommandError(f"{checkout} is no checkout itself{also}")


def _is_checkout(folder: Path) -> bool:
    return (folder / places.DNNLIB).is_file()


def _checkouts_near(path: Path) -> Iterator[Path]:
    children = sorted(child for child in path.iterdir() if child.is_dir())
    for folder in (path.resolve().parent, *children):
        with suppress(OSError):  # somebody else's
            if _is_checkout(folder):
                yield folder


def _chosen(only: str | None) -> tuple[str, ...]:
    return (only,) if only else tuple(PATCHES)


def _changes(checkout: Path, find: Callable[[Path], list[Change]]) -> list[Change] | list[NoPlaceError]:
    try:
        return find(checkout)
    except NoPlaceError as error:
        return [error]


def _compiled(change: Change) -> bytes:
    """The file with our lines, which Python takes."""
    content = change.inserted()
    try:
        compile(content, change.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise CommandError(f"{change.path} would be no code any more ({error}). Nothing was changed") from error
    return content


def _edits(checkout: Path, contents: dict[str, bytes]) -> list[Edit]:
    edits = [Edit(path, _read(checkout / path), content) for path, content in contents.items()]
    return [edit for edit in edits if edit.before != edit.after]


def _check_writable(checkout: Path, path: Path) -> None:
    instead = "or use gan-regularizers run, which changes nothing. Nothing was changed"
    real = path.resolve()
    if not real.is_relative_to(checkout.resolve()):
        raise CommandError(f"{path} is {real}, so all who share that would get our lines; put a copy there, {instead}")
    if not os.access(real, os.W_OK) or not real.stat().st_mode & 0o222:
        raise CommandError(f"{path} is read-only; make it writable, {instead}")
    if not os.access(real.parent, os.W_OK):
        raise CommandError(f"{path}: you may not write in its folder; make that writable, {instead}")


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _blob_id(content: bytes) -> str:
    """Git's name of a content that may have been checked out with CRLF."""
    content = content.replace(b"\r\n", b"\n")
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
