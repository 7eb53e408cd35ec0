"""Files that are whole or not there."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .errors import CommandError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside path and rename it to path; on an error path stays as it was."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_output(option: str, path: Path, suffix: str) -> None:
    """Say so before any work, if a file that an option names cannot be written."""
    if path.suffix != suffix:
        raise CommandError(f"{option} {path} does not end in {suffix}")
    if path.is_dir() or not path.parent.is_dir():
        raise CommandError(f"{option} {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"{option} {path}: no permission to write there")


def replace_together(contents: Mapping[Path, bytes]) -> None:
    """Give files other contents and keep their permissions; on an error all of them stay as they were."""
    before = {path: path.read_bytes() for path in contents}
    try:
        _replace(contents)
    except BaseException:
        _replace({path: content for path, content in before.items() if path.read_bytes() != content})
        raise


def _replace(contents: Mapping[Path, bytes]) -> None:
    """Write all that is new beside the files before the first of them is renamed."""
    temporary = {path: _temporary(path) for path in contents}
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
            shutil.copymode(path, temporary[path])
        for path in contents:
            temporary[path].replace(path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside a path that no other process takes, nor one of another machine that shares the folder."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")
