"""Pictures out of folders and zip files."""

import contextlib
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from .errors import CommandError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # whatever else this Pillow may read, such as EPS by a program
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LICENCE_NAMES = ("license", "licence", "copying", "notice", "attribution")
_LICENCE_LENGTH = 4000  # bytes of a note that are kept


def load(source: Path, resolution: int) -> Tensor:
    """All images of a folder (searched in depth, but not through links) or zip as uint8 [N, 3, R, R], by name.

    Raises:
        CommandError: no such folder or zip, no image in it, or an image that cannot be read.
    """
    return torch.stack([square(decode(name, content), resolution) for name, content in files(source)])


def files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each image file of a folder (searched in depth, but not through links) or zip, by name.

    Raises:
        CommandError: no such folder or zip, no image in it, or a file that cannot be unpacked.
    """
    with _open(source) as (names, read):
        images = sorted(filter(_is_image, names), key=lambda name: PurePosixPath(name).parts)
        if not images:
            raise CommandError(f"{source}: no image found; looked for {', '.join(sorted(SUFFIXES))}")
        for name in images:
            yield str(source / name) if source.is_dir() else f"{source}:{name}", read(name)


def licence(source: Path) -> str:
    """What files such as LICENSE at the top of a folder or zip, or of its only folder, say; empty if there is none."""
    with _open(source) as (names, read):
        paths = {name: PurePosixPath(name) for name in sorted(names) if not _is_image(name)}
        depth = 1 if len({PurePosixPath(name).parts[0] for name in names}) > 1 else 2
        notes = [
            name
            for name, path in paths.items()
            if len(path.parts) <= depth and path.name.lower().startswith(_LICENCE_NAMES)
        ]
        return "\n".join(read(name)[:_LICENCE_LENGTH].decode(errors="replace").strip() for name in notes)


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
            rgba = (_from_16_bits(image) if deep else image).convert("RGBA")
    rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def square(image: Image.Image, resolution: int) -> Tensor:
    """The central square, resized, as uint8 [3, R, R]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    filter_ = Image.Resampling.BOX if side >= resolution else Image.Resampling.BILINEAR
    resized = image.resize((resolution, resolution), filter_, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@contextlib.contextmanager
def _open(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of the files in a folder or zip, and what reads one of them."""
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        yield names, lambda name: (source / name).read_bytes()
    elif zipfile.is_zipfile(source):
        try:
            with zipfile.ZipFile(source) as archive:
                yield [name for name in archive.namelist() if not name.endswith("/")], archive.read
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError) as error:
            raise CommandError(f"{source} cannot be unpacked: {error}") from error
    else:
        state = "is neither a folder nor a zip file" if source.exists() else "does not exist"
        raise CommandError(f"{source} {state}")


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


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    # macOS puts a hidden companion beside every file that it packs.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and "__MACOSX" not in path.parts
