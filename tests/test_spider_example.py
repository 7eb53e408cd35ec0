"""The Spider GAN example, at a length that shows that all works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "examples" / "spider.py"
FILES = ["neighbours.json", "neighbours.png", "samples.png", "spider.json", "spider.png"]


@pytest.fixture
def spider(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import spider

    return spider


def test_quick_ranks_trains_and_repeats(spider, tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--kimg", "0.05", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == FILES
    for name in ("neighbours.png", "samples.png", "spider.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    report = json.loads((tmp_path / "spider.json").read_text())
    ranking = json.loads((tmp_path / "neighbours.json").read_text())["neighbours"]
    assert report["ranking"] == [neighbour["name"] for neighbour in ranking]
    assert len(ranking) == 8
    assert ranking[0]["name"] == "smileys-emotion"  # faces, like the portraits
    assert [(run["arm"], run["seed"]) for run in report["runs"]] == [(arm, 0) for arm in spider.ARMS]
    for run in report["runs"]:
        assert run["history"][-1]["kimg"] == pytest.approx(0.048)
        assert run["history"][-1]["kid"] > report["floor"]
        assert report["summary"][run["arm"]]["kid"] == [run["history"][-1]["kid"]]

    threads = torch.get_num_threads()
    try:
        again = spider.train("friendliest", 0, 0.05, 2, tmp_path / "spider-sets", report["ranking"])
    finally:
        torch.set_num_threads(threads)
    assert again["history"] == next(run for run in report["runs"] if run["arm"] == "friendliest")["history"]


def test_arms_are_fed_with_what_they_are_named_after(spider, tmp_path):
    for name, colour in (("near", 20), ("far", 200)):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (colour + i,) * 3).save(tmp_path / name / f"{i}.png")
    fed = {arm: spider.latents_of(arm, tmp_path, ["near", "far"]) for arm in spider.ARMS}
    assert fed["gaussian"] is None
    assert fed["friendliest"].images[0].unique() == fed["not centered"].images[0].unique() == 20
    assert fed["least friendly"].images[0].unique() == 200
    assert fed["friendliest"].mean_latent.any()
    assert not fed["not centered"].mean_latent.any()
    assert [arm for arm, latents in fed.items() if latents is not None and latents.jitter] == ["with jitter"]
    assert "CC-BY 4.0" in fed["friendliest"].licence


@pytest.mark.parametrize(
    ("kids", "expected"),
    [((300, 200, 100), 1.5), ((100, 50, 60), 0.0), ((300, 200, 180), None), ((300, 150, 200), 1.0)],
)
def test_the_images_shown_until_a_kid_is_reached(spider, kids, expected):
    history = [{"kimg": float(kimg), "kid": float(kid)} for kimg, kid in enumerate(kids)]
    assert spider.kimg_to_reach(history, 150) == expected


def test_a_wrong_option_is_one_line(spider, capsys):
    with pytest.raises(SystemExit) as stopped:
        spider.main(["--seeds", "0"])
    assert stopped.value.code == 2
    assert "argument --seeds: value=0.0 is outside [1, inf)" in capsys.readouterr().err
