"""Pictures out of folders and zip files."""

import contextlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import CommandError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
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
    """An image as a camera's orientation has it, with transparency on white, as RGB.

    Raises:
        CommandError: it cannot be read; the message has the name.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F" or upright.mode.startswith("I"):
                upright = _from_16_bits(upright)
            rgba = upright.convert("RGBA")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise CommandError(f"{name} cannot be read as an image: {error}") from error
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


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


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Numbers from 0 to 65535, which a conversion would clip, as bytes."""
    values = np.asarray(image, np.float64)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its numbers are not those of 8 or 16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    # macOS puts a hidden companion beside every file that it packs.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and "__MACOSX" not in path.parts
