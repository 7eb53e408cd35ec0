"""The demo as a person meets it: a run, an interruption, a resume, and everything that can be typed wrong."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan_regularizers.commands import main
from gan_regularizers.commands.demo import images, kid
from gan_regularizers.spider.features import Lite0Features

COMMAND = [sys.executable, "-m", "gan_regularizers", "demo"]
SMALL = ["--resolution", "16", "--kimg", "1.28", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "COLUMNS": "200"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 portraits."""
    folder = tmp_path_factory.mktemp("pictures")
    train, _ = images.split_portraits(32, 24)
    for i, image in enumerate(train):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run to its end."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run([*COMMAND, *SMALL, "--data", pictures, "--out", out], check=True, env=ENVIRONMENT)
    return out


def test_portraits_are_split_by_base_emoji():
    bases = images._portrait_files()
    assert sum(map(len, bases.values())) == 732
    train, held_out = images.split_portraits(32, 100)
    assert train.shape == (100, 3, 32, 32)
    assert train.dtype == torch.uint8
    assert len(held_out) > 256
    seen = {image.numpy().tobytes() for image in train}
    assert not seen & {image.numpy().tobytes() for image in held_out}


def test_a_quarter_of_a_persons_own_images_is_held_out(pictures):
    train, held_out = images.split_own(pictures, 16)
    assert (len(train), len(held_out)) == (18, 6)
    assert len({image.numpy().tobytes() for image in torch.cat([train, held_out])}) == 24


def test_kid_lite0_orders_sets_by_their_distance(monkeypatch):
    features = Lite0Features()
    train, held_out = images.split_portraits(32, 64)
    train, held_out = (part[:64].float() / 127.5 - 1 for part in (train, held_out))
    real = features(held_out)
    assert real.shape == (64, 1280)
    generator = torch.Generator().manual_seed(0)
    noisy = train + 0.1 * torch.randn(train.shape, generator=generator)
    collapsed = train[:1].expand_as(train)
    scores = [kid.kid_x1000(features(part), real) for part in (train, noisy, collapsed)]
    assert scores[0] < 0.5 * min(scores[1:])
    before = torch.get_rng_state()
    monkeypatch.setattr(
        torch.cuda, "manual_seed_all", lambda _: pytest.fail("the generators of CUDA are not the metric's")
    )
    assert kid.kid_x1000(features(train), real) == scores[0]
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_leaves_pictures_curves_and_numbers(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["images"]["train"] == 18
    assert results["images"]["held_out"] == 6
    for arm, history in results["history"].items():
        assert len(history) == 8
        assert history[-1]["kimg"] == 1.28
        assert {"D_loss", "G_loss", "r_d", "T", "kid", "gap"} <= history[0].keys()
        assert all((entry["T"] >= 10) == (arm == "regularised") for entry in history)
    for name, smallest in {"samples.png": (900, 300), "curves.png": (900, 500)}.items():
        with Image.open(finished / name) as picture:
            assert picture.width >= smallest[0]
            assert picture.height >= smallest[1]
    assert sorted(path.name for path in finished.iterdir()) == sorted(
        ["settings.json", "results.json", "samples.png", "curves.png", "regularised.pt", "unregularised.pt"]
    )


def test_the_arms_of_a_killed_run_leave_their_checkpoints_and_end(pictures, tmp_path):
    command = [*COMMAND, "--resolution", "16", "--kimg", "99", "--device", "cpu", "--data", pictures, "--out", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for line in process.stdout:
            if b"Training" in line:
                break
        time.sleep(1)
        process.kill()
        process.wait()
        end = time.monotonic() + 100
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(process.pid, 0)
                time.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("awaited", ["settings.json", "*.pt"], ids=["while loading", "while training"])
def test_interrupted_and_resumed_gives_the_numbers_of_an_uninterrupted_run(awaited, finished, pictures, tmp_path):
    out = tmp_path / "a run"
    process = subprocess.Popen(
        [*COMMAND, *SMALL, "--data", pictures, "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    while not list(out.glob(awaited)):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the arms too
    _, error = process.communicate(timeout=120)
    assert error.splitlines() == [
        f"gan-regularizers: stopped; gan-regularizers demo --resume --out '{out}' continues it"
    ]
    assert process.returncode == 1
    left = {path.name for path in out.iterdir()}
    assert {"settings.json"} <= left <= {"settings.json", "regularised.pt", "unregularised.pt"}
    iterations = [torch.load(path, weights_only=True)["iteration"] for path in out.glob("*.pt")]
    assert awaited == "settings.json" or len(iterations) == 2
    assert min(iterations, default=0) < 80

    subprocess.run([*COMMAND, "--resume", "--out", out], check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    histories = [json.loads((folder / "results.json").read_text())["history"] for folder in (finished, out)]
    assert histories[0] == histories[1]


def test_a_second_run_in_one_place_overwrites_nothing(finished, capsys):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert main(["demo", *SMALL, "--out", str(finished)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in finished.iterdir()}


def test_resuming_on_other_images_is_refused(finished, tmp_path, capsys):
    out = tmp_path / "moved"
    out.mkdir()
    settings = json.loads((finished / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps({**settings, "images": "0"}))
    assert main(["demo", "--resume", "--out", str(out)]) == 1
    assert "the images differ" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_is_named(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "regularised.pt").write_bytes(b"PK")
    assert main(["demo", "--resume", "--out", str(out)]) == 1
    assert f"{out / 'regularised.pt'} cannot be read; delete it" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_no_half_file(pictures, tmp_path):
    out = tmp_path / "run"
    limit = 100_000  # bytes a file may grow to: the settings fit, a checkpoint does not
    done = subprocess.run(
        [*COMMAND, *SMALL, "--data", pictures, "--out", out],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "arm failed: OSError" in done.stderr
    assert [path.name for path in out.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "{tmp}/none"], "does not exist"),
        (["--data", "{tmp}/text.txt"], "neither a folder nor a zip"),
        (["--data", "{tmp}/empty"], "no image found"),
        (["--data", "{tmp}/torn.zip"], "cannot be unpacked"),
        (["--out", "{tmp}/text.txt"], "is a file; name a folder"),
        (["--out", "{tmp}/few"], "is not empty"),
        (["--data", "{tmp}/broken", "--out", "{tmp}/text.txt/out"], "--out {tmp}/text.txt/out: Not a directory"),
        (["--data", "{tmp}/few", "--out", "{tmp}/few/out"], "is inside of {tmp}/few, whose pictures are read"),
        (["--data", "{tmp}/broken"], "broken.png cannot be read as an image"),
        (["--data", "{tmp}/few"], "at least 8"),
        (["--policy", "colour"], "unknown name 'colour'; known are color, translation, cutout"),
        (["--resume", "--seed", "1"], "leave out --seed"),
        (["--resume", "--out", "{tmp}/empty"], "holds no run"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(arguments, said, tmp_path, capsys):
    for name in ("empty", "broken", "few"):
        (tmp_path / name).mkdir()
    (tmp_path / "text.txt").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "torn.zip", "w") as archive:
        archive.writestr("one.png", bytes(1000))
    whole = (tmp_path / "torn.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[:40] + b"torn" + whole[44:])
    (tmp_path / "broken" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    Image.new("RGB", (20, 20)).save(tmp_path / "few" / "one.png")
    out = tmp_path / "out"
    where = [] if "--out" in arguments else ["--out", str(out)]
    assert main(["demo", *(argument.format(tmp=tmp_path) for argument in arguments), *where]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said.format(tmp=tmp_path) in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("--resolution", "33", "choose from 16, 32"),
        ("--resolution", "big", "invalid int"),
        ("--kimg", "0", "value=0.0 is outside (0, inf)"),
        ("--kimg", "nan", "value=nan is outside (0, inf)"),
        ("--noise-std", "-1", "value=-1.0 is outside [0, inf)"),
        ("--target", "1.5", "value=1.5 is outside (-1, 1)"),
        ("--seed", "1.5", "whole number"),
        ("--device", "tpu", "choose from"),
    ],
)
def test_wrong_options_are_usage_errors(option, value, needed, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", option, value])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert needed in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(tmp_path, capsys):
    assert main(["demo", "--device", "cuda", "--out", str(tmp_path / "out")]) == 1
    assert "--device cpu" in capsys.readouterr().err
