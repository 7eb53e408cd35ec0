"""Pictures out of folders and zip files."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_regularizers import images
from gan_regularizers.errors import CommandError


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
    exif[0x0112] = 3  # upside down
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
    with zipfile.ZipFile(archive, "w") as stream:
        for name in ("./b.png", "a//c.png", "a-b/x.png"):
            information = zipfile.ZipInfo()
            information.filename = name  # as other programs write it
            stream.writestr(information, (pictures / "00.png").read_bytes())
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
