"""info, preview, and what the command costs to import."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from PIL import Image

from gan_regularizers import __version__
from gan_regularizers.commands import _extras, main


def test_info_names_versions_and_the_backend(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for part in (__version__, torch.__version__, "kernels  ", "backend ", "demo extra        installed"):
        assert part in shown


def test_info_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else object())
    assert main(["info"]) == 0
    assert "missing rich; pip install 'gan-regularizers[demo]'" in capsys.readouterr().out
    assert main(["demo"]) == 1
    assert "needs rich; pip install 'gan-regularizers[demo]'" in capsys.readouterr().err
    assert main(["bench"]) == 1
    assert "needs rich; pip install 'gan-regularizers[bench]'" in capsys.readouterr().err


def test_the_backend_is_chosen_by_the_environment():
    script = "import torch, gan_regularizers as g; g.DiffAugment()(torch.zeros(1, 3, 8, 8))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"GAN_REGULARIZERS_BACKEND": "gpu"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "'gpu' is no backend" in done.stderr.splitlines()[-1]


def test_preview_draws_every_picture(tmp_path, capsys):
    paths = []
    for i, size in enumerate([(20, 30), (64, 64)]):
        paths.append(str(tmp_path / f"{i}.jpg"))
        Image.new("RGB", size, (200, 60 * i, 30)).save(paths[-1])
    for out, count in ((tmp_path / "one.png", 1), (tmp_path / "two.png", 2)):
        assert main(["preview", *paths[:count], "--out", str(out), "--seed", "3"]) == 0
    assert "Wrote" in capsys.readouterr().out
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.height > one.height > 400
        assert len(one.getcolors(1 << 20)) > 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.png"], "no such image: missing.png"),
        (["{picture}", "--out", "picture.jpg"], "does not end in .png"),
        (["{picture}", "--out", "picture.png"], "is one of the pictures"),
        (["{picture}", "--policy", "cutout,zoom"], "unknown name 'zoom'"),
        (["{picture}", "--out", "/no/such/folder/picture.png"], "/no/such/folder"),
    ],
)
def test_preview_says_what_is_wrong(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    assert main(["preview", *(a.format(picture="picture.png") for a in arguments)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_no_command_shows_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_the_extras_are_installed_here():
    assert [_extras.missing(extra) for extra in ("bench", "demo")] == [[], []]


def test_help_needs_no_extra():
    script = (
        "import sys; from gan_regularizers.commands import parser; parser();"
        "print({'matplotlib', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_import_needs_torch_and_numpy_alone():
    script = (
        "import sys, torch, numpy; before = set(sys.modules); import gan_regularizers;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["gan_regularizers"]
