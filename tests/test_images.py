"""Pictures out of folders and zip files."""

import io
import os
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from gan_regularizers.io import images
from gan_regularizers.io.errors import CommandError

EXAMPLES = int(os.environ.get("GAN_REGULARIZERS_TEST_EXAMPLES", 400))  # of damage, of each kind; 10,000 take minutes
ORIENTATION = int(ExifTags.Base.Orientation)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


def _file(image, format_, **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def _png(bits, colour, values, transparent=None, size=None):
    """A PNG of one row with values as they stand in the file."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *(size or (len(values), 1)), bits, colour, 0, 0, 0))]
    if transparent is not None:
        chunks.append((b"tRNS", np.array(transparent, ">u2").tobytes()))
    digits = "".join(f"{value:0{bits}b}" for value in np.ravel(values))
    digits += "0" * (-len(digits) % 8)
    row = b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")
    chunks += [(b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _tiff(*entries, behind=b""):
    """A directory of tags, each (tag, type, count, four bytes of value or None for where what lies behind starts)."""
    start = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(
        struct.pack("<HHI", *entry[:3]) + (struct.pack("<I", start) if entry[3] is None else entry[3])
        for entry in sorted(entries)
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + behind


def _photo(exif, format_="JPEG"):
    """White above, black below."""
    half = Image.new("RGB", (32, 16))
    half.paste((255, 255, 255), (0, 0, 32, 8))
    return _file(half, format_, exif=b"Exif\0\0" + exif)


def _zip(path, entries):
    """Writes names as other programs do."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as stream:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, content in entries:
            information = zipfile.ZipInfo()
            information.filename = name
            stream.writestr(information, content)


def _greys(source):
    """Of pictures of one grey each, 10, 20 and so on."""
    return (images.load(source, 4)[:, 0, 0, 0] // 10).tolist()


def _grey(number):
    return _file(Image.new("L", (4, 4), 10 * number), "PNG")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_a_folder_and_a_zip_of_it_are_one_set(pictures, tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in pictures.iterdir():
            stream.write(path, f"inner/{path.name}")
        stream.writestr("inner/dataset.json", "{}")
    assert torch.equal(images.load(pictures, 16), images.load(archive, 16))


def test_companions_and_folders_are_no_images(pictures, tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.write(pictures / "00.png", "00.png")
        stream.writestr("__MACOSX/01.png", "companion")
        stream.writestr("._00.png", "companion")
        stream.writestr("folder.png/", "")
    assert len(images.load(archive, 16)) == 1


def test_sixteen_bits_and_orientation_are_understood(tmp_path):
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 3  # upside down
    half = Image.new("RGB", (8, 8))
    half.paste((255, 255, 255), (0, 0, 8, 4))
    half.save(tmp_path / "b.png", exif=exif)
    deep, turned = images.load(tmp_path, 8)
    assert (deep == 128).all()
    assert (turned[:, :4] == 0).all()
    assert (turned[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((4, 4), 32768, np.uint16), 128),  # 127.5
        (np.full((4, 4), 65535, np.int32), 255),
        (np.full((4, 4), 65536, np.int32), None),
        (np.full((4, 4), 0.5, np.float32), None),
    ],
)
def test_numbers_of_pixels_that_are_no_bytes(tmp_path, pixels, expected):
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    if expected is None:
        with pytest.raises(CommandError, match=r"a\.tiff cannot be read.*not those of 8 or 16 bits"):
            images.load(tmp_path, 4)
    else:
        assert (images.load(tmp_path, 4) == expected).all()


def test_names_that_a_path_would_write_otherwise(pictures, tmp_path):
    archive = tmp_path / "set.zip"
    content = (pictures / "00.png").read_bytes()
    _zip(archive, [(name, content) for name in ("./b.png", "a//c.png", "a-b/x.png")])
    assert [name.rpartition(":")[2] for name, _ in images.files(archive)] == ["a//c.png", "a-b/x.png", "./b.png"]


def test_transparency_falls_on_white_and_the_centre_is_cut(tmp_path):
    picture = Image.new("RGBA", (30, 10), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (10, 0, 20, 10))
    picture.save(tmp_path / "clear.png")
    assert (images.load(tmp_path, 10) == 255).all()


def test_a_broken_image_in_a_zip_is_named(tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("a/bad.png", b"nothing")
    with pytest.raises(CommandError, match=r"a/bad\.png cannot be read"):
        images.load(archive, 16)


def test_a_small_image_is_enlarged_smoothly():
    ramp = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(2, 0)).convert("RGB")
    values = images.square(ramp, 8)[0, 0].tolist()
    assert values == sorted(values)
    assert len(set(values)) > 3


def test_notes_on_the_licence_are_found(pictures, tmp_path):
    assert images.licence(pictures) == ""
    (tmp_path / "LICENSE.txt").write_text("CC-BY 4.0, by A. Painter\n")
    Image.new("L", (4, 4)).save(tmp_path / "license_000.png")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "LICENSE").write_text("of something else")
    assert images.licence(tmp_path) == "CC-BY 4.0, by A. Painter"
    for name in ("LICENSE.txt", "set/LICENSE.txt"):  # a zip of a folder has the folder in it
        archive = tmp_path / "set.zip"
        with zipfile.ZipFile(archive, "w") as stream:
            stream.write(tmp_path / "LICENSE.txt", name)
            stream.write(pictures / "00.png", str(Path(name).with_name("00.png")))
        assert images.licence(archive) == "CC-BY 4.0, by A. Painter"
    (tmp_path / "NOTICE").write_text("x" * 9000)
    assert len(images.licence(tmp_path)) < 4100


def test_the_licence_of_a_folder_that_macos_packed_is_found(tmp_path):
    archive = tmp_path / "set.zip"
    _zip(archive, [("set/a.png", _grey(1)), ("set/LICENSE", b"CC0"), ("__MACOSX/set/._LICENSE", b"companion")])
    assert images.licence(archive) == "CC0"


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "JPEG", "MPO"])
def test_every_orientation_of_every_format(format_, orientation):
    stored = np.kron([[0, 50, 100], [150, 200, 250]], np.ones((16, 16))).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"WEBP": {"lossless": True}, "MPO": {"save_all": True, "append_images": [Image.new("RGB", (48, 32))]}}
    content = _file(Image.fromarray(stored).convert("RGB"), format_, exif=exif.tobytes(), **options.get(format_, {}))
    upright = np.asarray(images.decode("a", content), int)
    assert np.abs(upright - UPRIGHT[orientation](stored)[..., None]).max() < 4


@pytest.mark.parametrize(
    ("tag", "behind"),
    [
        ((0x11A, 10, 1, None), struct.pack("<ii", -1, 0)),  # a resolution of -1/0
        ((0x11A, 2, 3, b"72\0\0"), b""),
        ((0x100, 1, 1, b"\x20\0\0\0"), b""),
        ((0x10E, 11, 1, struct.pack("<f", 1)), b""),
        ((0x101, 8, 1, struct.pack("<hh", -1, 0)), b""),
        ((0x8769, 4, 1, b"\xff\xff\xff\xff"), b""),
        ((0x132, 2, 2**31, None), b"cut off"),
    ],
)
def test_an_odd_tag_beside_the_orientation_is_left_alone(tag, behind):
    exif = _tiff((ORIENTATION, 3, 1, struct.pack("<HH", 6, 0)), tag, behind=behind)
    upright = images.decode("photo.jpg", _photo(exif))
    assert upright.size == (16, 32)
    assert upright.getpixel((12, 16))[0] > 200 > 50 > upright.getpixel((3, 16))[0]


@pytest.mark.parametrize(
    "exif",
    [
        *(_tiff((ORIENTATION, 3, 1, struct.pack("<HH", value, 0))) for value in (0, 1, 9, 65535)),
        _tiff((ORIENTATION, 2, 2, b"6\0\0\0")),
        _tiff((ORIENTATION, 1, 1, b"\6\0\0\0")),
        _tiff((ORIENTATION, 5, 1, None), behind=struct.pack("<II", 6, 1)),
        _tiff((ORIENTATION, 5, 1, None), behind=struct.pack("<II", 6, 0)),
        _tiff((ORIENTATION, 11, 1, struct.pack("<f", float("nan")))),
        _tiff((ORIENTATION, 3, 1, struct.pack("<HH", 6, 0)))[:15],
        b"II*\0",
        b"no directory",
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_a_picture_without_a_sound_orientation_stays_as_it_is(exif, format_):
    assert images.decode("photo.jpg", _photo(exif, format_)).size == (32, 16)


def test_an_orientation_behind_the_pixels_of_a_png_is_found():
    content = _photo(_tiff((ORIENTATION, 3, 1, struct.pack("<HH", 6, 0))), "PNG")
    start, end = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert images.decode("photo.png", moved).size == (16, 32)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth(bits):
    largest = 2**bits - 1
    for transparent in {0, largest, largest // 3}:
        values = [0, largest, largest // 3]
        expected = [255 if value == transparent else 255 * value // largest for value in values]
        picture = images.decode("a.png", _png(bits, 0, values, [transparent]))
        assert np.asarray(picture)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("bits", "transparent"),
    [(8, [0, 0, 255]), (16, [0, 0, 255]), (16, [0, 0, 65535]), (16, [32768, 0, 0]), (16, [257, 514, 771])],
)
def test_a_transparent_colour_of_any_depth(bits, transparent):
    high = 2 ** (bits - 8)
    values = [transparent, [0, 128 * high, 0], [0, 0, 254 * high], [255 * high, 1 * high, 0]]
    pixels = np.asarray(images.decode("a.png", _png(bits, 2, values, transparent)))[0]
    assert pixels.tolist() == [[255, 255, 255], [0, 128, 0], [0, 0, 254], [255, 1, 0]]


def test_alpha_of_sixteen_bits():
    greys = images.decode("a.png", _png(16, 4, [[0, 65535], [32768, 0], [0, 32896]]))
    assert np.asarray(greys)[0, :, 0].tolist() == [0, 255, 127]
    colours = images.decode("a.png", _png(16, 6, [[0, 32896, 0, 65535], [32768, 0, 0, 0]]))
    assert np.asarray(colours)[0].tolist() == [[0, 128, 0], [255, 255, 255]]


@pytest.mark.parametrize(("order", "mode"), [(b"II", "<u2"), (b"MM", ">u2")])
def test_tiffs_of_sixteen_bits_in_either_order(order, mode):
    values = np.array([0, 257, 32896, 65535], mode)
    code = "<" if order == b"II" else ">"
    tags = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 8)]
    table = b"".join(struct.pack(f"{code}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    header = order + struct.pack(f"{code}HI", 42, 16) + values.tobytes() + struct.pack(f"{code}H", len(tags))
    picture = images.decode("a.tif", header + table + bytes(4))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_palettes_and_animations():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    picture = images.decode("a.png", _file(palette, "PNG", transparency=bytes([0, 255])))
    assert np.asarray(picture)[0].tolist() == [[255, 255, 255], [0, 255, 0]]
    first, second = Image.new("RGB", (4, 4), (0, 0, 255)), Image.new("RGB", (4, 4))
    for format_ in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        content = _file(first, format_, save_all=True, append_images=[second], **options)
        assert images.decode("a", content).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("error", [KeyError(5), IndexError("x"), struct.error("a b"), MemoryError(), OSError("a b\nc")])
def test_whatever_a_decoder_raises_names_the_file(monkeypatch, error):
    def damaged(_):
        raise error

    content = _file(Image.new("L", (4, 4)), "BMP")
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", damaged)
    with pytest.raises(CommandError, match=r"^a\.bmp cannot be read as an image: \w.+; save it anew") as raised:
        images.decode("a.bmp", content)
    assert raised.value.__cause__ is error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        b"P6 1 1 255\n123",  # Pillow would read it
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n",  # this too, by another program
        b"\0\0\0\x18ftypheic" + bytes(60),
        b"\0\0\0\x18ftypavif" + bytes(60),
        b"",
    ],
)
def test_other_formats_are_refused_under_any_name(content):
    with pytest.raises(CommandError, match=r"a\.png cannot be read.*damaged, or in none of the formats PNG, .*TIFF;"):
        images.decode("a.png", content)


def test_large_pictures_are_read_in_silence_and_huge_ones_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert images.decode("a.png", _file(Image.new("L", (4, 4)), "PNG")).size == (4, 4)
    with pytest.raises(CommandError, match=r"a\.png cannot be read as an image: Image size \(25 pixels\)"):
        images.decode("a.png", _file(Image.new("L", (5, 5)), "PNG"))


_SIDE = 60000
_CLAIMS = {
    "png": _png(16, 6, [[0, 0, 0, 0]], size=(_SIDE, _SIDE)),
    "gif": b"GIF89a" + struct.pack("<HH3xcHHHHB", _SIDE, _SIDE, b",", 0, 0, _SIDE, _SIDE, 0) + b"\2\0;",
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, _SIDE, _SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
    "tif": _tiff(
        *((tag, 4, 1, struct.pack("<I", value)) for tag, value in ((256, _SIDE), (257, _SIDE), (273, 8), (279, 9))),
        *((tag, 3, 1, struct.pack("<HH", value, 0)) for tag, value in ((258, 16), (259, 1), (262, 1), (277, 1))),
    ),
    "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + 2 * (_SIDE - 1).to_bytes(3, "little"),
}


@pytest.mark.parametrize("suffix", _CLAIMS)
def test_a_small_file_that_claims_a_huge_picture(suffix):
    with pytest.raises(CommandError, match=f"a.{suffix} cannot be read as an image: "):
        images.decode(f"a.{suffix}", _CLAIMS[suffix])


HIDDEN = (
    ".ipynb_checkpoints/a-checkpoint.png .Trash-1000/files/old.png .thumbnails/a.png @eaDir/a.jpg __MACOSX/a.png "
    "$RECYCLE.BIN/a.png lost+found/a.png b/.hidden/a.png b/.a.png"
).split()


def test_what_is_hidden_in_a_folder_is_no_data(tmp_path):
    source = tmp_path / ".cache" / "@eaDir"  # the source itself may lie anywhere
    for i, name in enumerate(["b/a.png", *HIDDEN]):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_grey(i))
    assert _greys(source) == [0]


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_what_is_hidden_in_a_zip_is_no_data(tmp_path, separator):
    names = [name.replace("/", separator) for name in ("set/b.png", "set/a.png", "folder.png/", *HIDDEN)]
    archive = tmp_path / "set.zip"
    _zip(archive, [(name, b"" if name.endswith(separator) else _grey(i)) for i, name in enumerate(names)])
    assert _greys(archive) == [1, 0]
    _zip(archive, [(name, _grey(0)) for name in names[3:]])
    with pytest.raises(CommandError, match=r"set\.zip: no image found.*outside of hidden folders"):
        images.load(archive, 4)


def test_a_name_above_the_zip_is_not_hidden(tmp_path):
    archive = tmp_path / "set.zip"
    _zip(archive, [("../a.png", _grey(1)), ("/b.png", _grey(2))])
    assert _greys(archive) == [1, 2]


@pytest.mark.parametrize("again", ["b/a.png", "./b/a.png", "b//a.png", "/b/a.png", "b\\a.png"])
def test_a_name_twice_in_a_zip_is_its_last_version(tmp_path, again):
    archive = tmp_path / "set.zip"
    _zip(archive, [("b/a.png", _grey(1)), ("c.png", _grey(3)), (again, _grey(2))])
    assert _greys(archive) == [2, 3]
    assert [name for name, _ in images.files(archive)] == [f"{archive}:{again}", f"{archive}:c.png"]


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, b"\1\0", r"set\.zip:a\.png cannot be unpacked: it is encrypted;"),
        (10, b"\x63\0", r"set\.zip:a\.png cannot be unpacked: That compression method is not supported;"),
        (16, b"\1\2\3\4", r"set\.zip:a\.png cannot be unpacked: Bad CRC-32"),
        (
            24,
            b"\0\0\0\x7f",
            r"set\.zip:a\.png cannot be unpacked: it has 2,130,706,432 bytes; at most 1,073,741,824 are read;",
        ),
        (38, b"\0\0\xff\xa1", r"set\.zip:a\.png cannot be unpacked: it is a link, without the file that it leads to;"),
        (42, b"\xff\0\0\0", r"set\.zip:a\.png cannot be unpacked: "),
    ],
)
def test_an_entry_that_cannot_be_unpacked_is_named(tmp_path, offset, value, message):
    archive = tmp_path / "set.zip"
    _zip(archive, [("a.png", _grey(1))])
    content = bytearray(archive.read_bytes())
    start = content.index(b"PK\1\2") + offset
    content[start : start + len(value)] = value
    archive.write_bytes(content)
    with pytest.raises(CommandError, match=message):
        images.load(archive, 4)


def test_a_name_that_is_not_the_utf_8_that_it_claims(tmp_path):
    archive = tmp_path / "set.zip"
    _zip(archive, [("ä.png", _grey(1))])
    assert _greys(archive) == [1]
    archive.write_bytes(archive.read_bytes().replace("ä".encode(), b"\xe4\xe4"))
    with pytest.raises(CommandError, match=r"set\.zip cannot be unpacked: .*utf-8.*; pack it anew"):
        images.load(archive, 4)


def test_large_files_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(_grey(1))
    monkeypatch.setattr(images, "_LARGEST", 20)
    with pytest.raises(CommandError, match=r"a\.png cannot be read: it has \d+ bytes; at most 20 are read;"):
        images.load(tmp_path, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the files of POSIX")
def test_a_name_without_a_file_is_said_and_nothing_waits(tmp_path):
    path = tmp_path / "a.png"
    for make in (lambda path: path.symlink_to("gone"), lambda path: path.symlink_to("a.png"), os.mkfifo):
        make(path)
        with pytest.raises(CommandError, match=r"a\.png cannot be read: it is no file, or a link to none;"):
            images.load(tmp_path, 4)
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(CommandError, match=r"a\.png is neither a folder nor a zip file"):
        images.load(path, 4)


def test_a_file_that_vanishes_meanwhile_is_said(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(_grey(1))
    files = images.files(tmp_path)
    next(files)
    (tmp_path / "b.png").unlink()
    with pytest.raises(CommandError, match=r"b\.png cannot be read: it is no file"):
        next(files)


def test_a_folder_without_permission_is_said_unless_it_is_hidden(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(_grey(1))
    (tmp_path / ".inner").mkdir()
    listing = os.scandir

    def scandir(path):
        if Path(path).name.endswith("inner"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _greys(tmp_path) == [1]
    (tmp_path / "inner").mkdir()
    with pytest.raises(CommandError, match=r"inner cannot be listed: Permission denied; make it readable"):
        images.load(tmp_path, 4)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_odd_names_in_a_folder(tmp_path):
    names = ["a\nb.png", "a\\.b.png"]
    if sys.platform == "linux":
        names.append("\udce9.png")  # a byte that is no UTF-8
    for name in names:
        (tmp_path / name).write_bytes(_grey(1))
    assert [Path(name).name for name, _ in images.files(tmp_path)] == sorted(names)


@pytest.fixture(scope="module")
def small():
    """Damaged headers may claim anything; what is allowed costs seconds and gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 2**18)
        yield


_VALUES = st.one_of(st.integers(0, 9), st.integers(0, 300), st.integers(0, 2**32 - 1)).map(
    lambda n: struct.pack("<I", n)
)
_TAGS = st.sampled_from([0x10E, 0x10F, 0x112, 0x11A, 0x128, 0x8769, 0x8825, 0xA005, 0x927C, 700]) | st.integers(
    0, 65535
)
_COUNTS = st.integers(0, 8) | st.integers(0, 2**32 - 1)
_EXIF = st.one_of(
    st.binary(max_size=100),
    st.builds(
        lambda entries, behind, end: _tiff(*entries, behind=behind)[:end],
        st.lists(st.tuples(_TAGS, st.integers(0, 14), _COUNTS, _VALUES), max_size=5),
        st.binary(max_size=60),
        st.none() | st.integers(0, 80),
    ),
)


@settings(max_examples=EXAMPLES)
@given(exif=_EXIF, format_=st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_no_exif_block_stops_a_sound_photo(exif, format_):
    assert sorted(images.decode("photo.jpg", _photo(exif, format_)).size) == [16, 32]


def _sound_files():
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8))
    clear = colours.convert("RGBA")
    clear.putalpha(colours.convert("L"))
    for options in ({}, {"progressive": True}):
        yield _file(colours, "JPEG", exif=_tiff((ORIENTATION, 3, 1, b"\6\0\0\0")), **options)
    yield _file(colours, "MPO", save_all=True, append_images=[colours])
    yield from (_file(clear, "WEBP", lossless=lossless) for lossless in (False, True))
    yield from (_file(clear.convert(mode), "BMP") for mode in ("1", "P", "RGB", "RGBA"))
    yield from (_file(clear.convert(mode), "PNG") for mode in ("1", "P", "LA", "RGBA"))
    yield from (_png(bits, 0, [0, 1, 1, 0], [1]) for bits in (1, 4, 16))
    yield from (_file(first, "GIF", save_all=True, append_images=[clear]) for first in (colours, clear))
    yield from (_file(clear.convert(mode), "TIFF") for mode in ("1", "P", "LA", "RGBA", "CMYK"))
    yield _file(Image.fromarray(np.arange(90, dtype=np.uint16).reshape(9, 10)), "TIFF")


_DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8)


def _damaged(content, edits, kept):
    changed = bytearray(content)
    for position, flipped in edits:
        changed[int(position * len(content))] ^= flipped
    return bytes(changed[: round(kept * len(content))])


@pytest.mark.usefixtures("small")
@settings(max_examples=4 * EXAMPLES)
@given(content=st.sampled_from(list(_sound_files())), edits=_DAMAGE, kept=st.just(1.0) | st.floats(0, 1))
def test_a_damaged_file_is_a_picture_or_one_line(content, edits, kept):
    try:
        assert images.decode("a.png", _damaged(content, edits, kept)).mode == "RGB"
    except CommandError as error:
        assert str(error).startswith("a.png cannot be read as an image: ")
        assert len(str(error).splitlines()) == 1


@settings(max_examples=EXAMPLES)
@given(edits=_DAMAGE, kept=st.just(1.0) | st.floats(0, 1), method=st.sampled_from([0, 8, 12, 14]))
def test_a_damaged_zip_is_a_set_or_one_line(tmp_path_factory, edits, kept, method):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("set/a.png", _grey(1))
        archive.writestr("set/LICENSE", "CC0")
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(_damaged(stream.getvalue(), edits, kept))
    try:
        images.licence(path)
        assert images.load(path, 4).shape == (1, 3, 4, 4)
    except CommandError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).rpartition(" cannot be ")[2].splitlines()) == 1  # a name may have anything in it
