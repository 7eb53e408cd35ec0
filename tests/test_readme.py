"""Every Python snippet of the README runs, in order, in one session with a D, a G and images at hand."""

import re
from pathlib import Path

import torch
from torch import nn

from gan_regularizers import DiffAugment

README = Path(__file__).parent.parent / "README.md"


def test_the_snippets_run():
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
    }
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), session)
    assert session["t"].shape == (4,)
    assert session["logits"].shape == (4,)


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
