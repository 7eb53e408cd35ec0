"""Every Python snippet of the README runs, in order, in one session with a D, a G and images at hand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from gan_regularizers import DiffAugment

README = Path(__file__).parent.parent / "README.md"


def test_the_snippets_run(tmp_path, monkeypatch):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(snippets) >= 5
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    session = {
        "torch": torch,
        "D": nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(1)),
        "real": images,
        "images": images,
        "latents": torch.randn(4, 64),
        "feature_map": torch.randn(4, 8, 16, 16),
        "G": nn.Linear(512, 3),
        "neighbour_images": torch.randint(0, 256, (9, 3, 48, 48), dtype=torch.uint8),
    }
    monkeypatch.chdir(tmp_path)
    session["D"](images)  # its lazy layer learns its size
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), session)
    assert session["t"].shape == (4,)
    assert session["logits"].shape == (4,)
    assert session["fake"].shape == (16, 3)


def test_the_snippet_of_spider_gan_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smileys").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (80 * i, 9, 9)).save(Path("smileys", f"{i}.png"))
    Path("smileys", "LICENSE").write_text("CC0")
    text = (README.parent / "docs" / "spider.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    session = {"torch": torch, "G": nn.Linear(512, 3)}
    exec(compile(snippet, "spider.md", "exec"), session)
    assert session["fake"].shape == (16, 3)
    assert session["latents"].licence == "CC0"


def test_the_command_for_upstream_repositories_finds_its_tests(tmp_path):
    """With a folder that is there, which pytest could take for tests, from the top of the source tree."""
    (line,) = re.findall(r"&& (pytest -m upstream .*?)  +#", README.read_text())
    command = [sys.executable, "-m", *shlex.split(line.replace("DIR", str(tmp_path)))]
    quick = ["--collect-only", "--quiet", "--ignore-glob=tests/test_*.py"]
    done = subprocess.run([*command, *quick], cwd=README.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/upstream/test_upstream.py::test_trains_resumes_and_generates" in done.stdout


def test_the_equivalent_is_equivalent():
    (snippet,) = re.findall(r"```python\n(def regularised.*?)```", README.read_text(), flags=re.DOTALL)
    session = {"torch": torch}
    exec(compile(snippet, str(README), "exec"), session)
    x = torch.rand(1, 3, 17, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    augment = DiffAugment()
    for seed in range(20):
        (params,) = augment.sample(x, torch.Generator().manual_seed(seed))
        parts = [params.brightness.item(), params.saturation.item(), params.contrast.item(), params.shift[0].tolist()]
        top, bottom, left, right = params.cutout[0].tolist()
        box = (max(top, 0), bottom, max(left, 0), right)
        expected = session["regularised"](nn.Identity(), x, *parts, box, 1.0, 0.05, torch.zeros_like(x))
        torch.testing.assert_close(augment(x, params=(params,)), expected)
