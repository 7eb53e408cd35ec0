"""Files that are whole or not there."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import CommandError

CACHE_VARIABLE = "GAN_REGULARIZERS_CACHE"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside path and rename it to path; on an error, which names path, path stays as it was."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_output(option: str, path: Path, suffix: str, sources: Sequence[Path] = ()) -> None:
    """Say so before any work, if a file that an option names cannot be written, or would be a picture of a source."""
    if not path.name.lower().endswith(suffix):
        raise CommandError(f"{option} {path} does not end in {suffix}")
    check_apart(option, path, sources)
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise CommandError(f"{option} {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise CommandError(f"{option} {path}: it is a link or a device, which would be replaced; name a file")
        if path.exists() and not os.access(path, os.W_OK):
            raise CommandError(f"{option} {path}: no permission to write to it")
        check_folder(path.parent)
    except OSError as error:
        raise CommandError(f"{option} {path}: {error.strerror}") from error


def check_apart(option: str, path: Path, sources: Sequence[Path]) -> None:
    """Say so, if what an option names lies in a folder of pictures, where it would be one of them the next time."""
    for source in sources:
        if source.is_dir() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source)):
            raise CommandError(f"{option} {path} is inside of {source}, whose pictures are read; name another place")


def check_folder(folder: Path) -> None:
    """Write a file as large as a small picture into a folder and remove it.

    Raises:
        OSError: that cannot be done.
    """
    temporary = _temporary(folder / "tried")
    try:
        temporary.write_bytes(bytes(2**16))
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path | None:
    """Where compiled kernels and features are kept: ``GAN_REGULARIZERS_CACHE``, else a folder of the user's cache.

    None for a user without a home.
    """
    windows = sys.platform == "win32"
    given = os.environ.get(CACHE_VARIABLE)
    users = os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME")
    try:
        if given:
            return Path(given).expanduser()
        return Path(users or ("~/AppData/Local" if windows else "~/.cache")).expanduser() / "gan_regularizers"
    except RuntimeError:  # a user whom the system does not know, as in a container
        return None


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
    """A name beside a path that no other process takes, nor one of another machine that shares the folder.

    It may be shorter than the path's own, which may be as long as the system has them.
    """
    return path.with_name(f".gan-regularizers-{os.urandom(8).hex()}")
