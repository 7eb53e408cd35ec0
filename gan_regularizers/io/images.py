"""Pictures out of folders and zip files."""

import contextlib
import io
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from .errors import CommandError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # whatever else this Pillow may read, such as EPS by a program
# What systems put beside a person's files, besides hidden ones: companions, thumbnails, the bin.
_NO_DATA = {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGEST = 2**30  # bytes of a file; a few in a zip can stand for any number
_LICENCE_NAMES = ("license", "licence", "copying", "notice", "attribution")
_LICENCE_LENGTH = 4000  # bytes of a note that are kept


def load(source: Path, resolution: int) -> Tensor:
    """All images of a folder (searched in depth, but not through links) or zip as uint8 [N, 3, R, R], by name.

    Each is the square in the middle of the picture, upright, on white where it is transparent. Hidden files and folders
    do not count, nor do thumbnails and the bin.

    Args:
        source: the folder or zip.
        resolution: R, the side in pixels; larger images are averaged, smaller ones interpolated (bilinear).

    Raises:
        CommandError: no such folder or zip, no image in it, or an image that cannot be read.
    """
    return torch.stack([square(decode(name, content), resolution) for name, content in files(source)])


def files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each image file of a folder (searched in depth, but not through links) or zip, by name.

    Raises:
        CommandError: no such folder or zip, no image in it, or a file that cannot be unpacked.
    """
    with _open(source) as found:
        images = sorted(filter(_is_image, found), key=lambda file: file.parts)
        if not images:
            raise CommandError(
                f"{source}: no image found; looked for {', '.join(sorted(SUFFIXES))} outside of hidden folders"
            )
        for file in images:
            yield file.name, file.read()


def licence(source: Path) -> str:
    """What files such as LICENSE at the top of a folder or zip, or of its only folder, say; empty if there is none.

    Args:
        source: the folder or zip.

    Raises:
        CommandError: no such folder or zip, or a file that cannot be unpacked.
    """
    with _open(source) as found:
        depth = 1 if len({file.parts[0] for file in found}) > 1 else 2
        notes = [
            file
            for file in sorted(found, key=lambda file: file.name)
            if len(file.parts) <= depth and file.parts[-1].lower().startswith(_LICENCE_NAMES) and not _is_image(file)
        ]
        return "\n".join(file.read()[:_LICENCE_LENGTH].decode(errors="replace").strip() for file in notes)


def decode(name: str, content: bytes) -> Image.Image:
    """An image as a camera's orientation has it, with transparency on white, as RGB; the first of several.

    Raises:
        CommandError: it cannot be read; the message has the name.
    """
    with _explaining(f"{name} cannot be read as an image", "save it anew or leave it out"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage beside the pixels, and of large pictures: neither is a fault
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image.load()
            turn = _turn(image)
            if image.format == "PNG":
                _scale_transparent_colour(image, bits=content[24])
            deep = image.mode == "F" or image.mode.startswith("I")
            rgb = _on_white(_from_16_bits(image) if deep else image)
    return rgb if turn is None else rgb.transpose(turn)


def square(image: Image.Image, resolution: int) -> Tensor:
    """The central square, resized, as uint8 [3, R, R]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    filter_ = Image.Resampling.BOX if side >= resolution else Image.Resampling.BILINEAR
    resized = image.resize((resolution, resolution), filter_, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


class _File(NamedTuple):
    """A file in a folder or zip.

    Attributes:
        name: for messages.
        parts: of the name inside of the folder or zip.
        read: returns the content.
    """

    name: str
    parts: tuple[str, ...]
    read: Callable[[], bytes]


@contextlib.contextmanager
def _open(source: Path) -> Iterator[list[_File]]:
    """The files of a folder or zip, without what is hidden."""
    if source.is_dir():
        yield list(_walk(source))
    elif source.is_file():  # a pipe would be waited for
        with contextlib.ExitStack() as stack:
            with _explaining(f"{source} cannot be unpacked", "pack it anew"):
                stream = stack.enter_context(source.open("rb"))
                if not zipfile.is_zipfile(stream):
                    raise CommandError(f"{source} is neither a folder nor a zip file")
                archive = stack.enter_context(zipfile.ZipFile(stream))
            yield list(_entries(source, archive))
    else:
        state = "is neither a folder nor a zip file" if source.exists() else "does not exist"
        raise CommandError(f"{source} {state}")


def _walk(source: Path) -> Iterator[_File]:
    def stop(error: OSError) -> NoReturn:
        raise CommandError(f"{error.filename} cannot be listed: {error.strerror}; make it readable or move it away")

    for folder, inner, names in os.walk(source, onerror=stop):
        inner[:] = filter(_is_data, inner)
        for path in (Path(folder, name) for name in names if _is_data(name)):
            yield _File(str(path), path.relative_to(source).parts, partial(_read_path, path))


def _entries(source: Path, archive: zipfile.ZipFile) -> Iterator[_File]:
    last = {}
    for entry in archive.infolist():
        # Windows may have packed it. A name that comes again is a newer version, however it is written.
        *folders, name = re.split(r"[/\\]", entry.filename)
        parts = (*(part for part in folders if part not in ("", ".")), name)
        if name and all(map(_is_data, parts)):
            shown = f"{source}:{entry.filename}"
            last[parts] = _File(shown, parts, partial(_read_entry, shown, archive, entry))
    yield from last.values()


def _read_path(path: Path) -> bytes:
    with _explaining(f"{path} cannot be read", "mend it or leave it out"):
        if not path.is_file():
            raise ValueError("it is no file, or a link to none")
        _check_size(path.stat().st_size)
        return path.read_bytes()


def _read_entry(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with _explaining(f"{name} cannot be unpacked", "pack it anew"):
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError("it is a link, without the file that it leads to")
        if entry.flag_bits & 1:
            raise ValueError("it is encrypted")
        _check_size(entry.file_size)
        with archive.open(entry) as stream:
            return stream.read(entry.file_size)  # no more, whatever it unpacks to


def _check_size(size: int) -> None:
    if size > _LARGEST:
        raise ValueError(f"it has {size:,} bytes; at most {_LARGEST:,} are read")


@contextlib.contextmanager
def _explaining(what: str, remedy: str) -> Iterator[None]:
    """Raises CommandError for any error.

    Pillow's readers, zipfile and its decompressors take damaged data as it comes, and raise nearly anything: KeyError,
    struct.error, OverflowError, MemoryError. Every one of them says the same of the file.
    """
    try:
        yield
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{what}: {_reason(error)}; {remedy}") from error


def _reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged, or in none of the formats {', '.join(_FORMATS)}"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split()).rstrip(".")
    return text if " " in text else repr(error)  # that of a KeyError says nothing without its name


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets a loaded image upright.

    Only this one tag is read. Others may be odd, and the whole block damaged, in a picture that is sound.
    """
    if image.format == "TIFF":  # which Pillow turns as it loads it
        return None
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _scale_transparent_colour(image: Image.Image, bits: int) -> None:
    """Pillow makes bytes of the pixels of a PNG, but leaves the transparent colour as the file has it."""
    colour = image.info.get("transparency")
    if colour is None:
        return
    if image.mode in ("1", "L") and bits < 8:
        largest = 2**bits - 1
        image.info["transparency"] = (colour & largest) * 255 // largest
    elif image.mode == "RGB" and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Numbers from 0 to 65535, which a conversion would clip, as bytes; one of them may be transparent."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its numbers are not those of 8 or 16 bits")
    grey = Image.fromarray(((values.astype(np.int32) + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.uint8(255) * (values != image.info["transparency"])))
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:  # which saves most of the time of a photo
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _is_data(name: str) -> bool:
    return name.lower() not in _NO_DATA and (name == ".." or not name.startswith("."))


def _is_image(file: _File) -> bool:
    return PurePosixPath(file.parts[-1]).suffix.lower() in SUFFIXES
