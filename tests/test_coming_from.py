"""docs/coming-from.md: its lines run, its tables name what there is, with its defaults, and what it calls equal is.

What needs kornia runs where it is installed; the page says with which version that was.
"""

import ast
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gan_regularizers
from gan_regularizers import (
    AdaptiveT,
    DiffAugment,
    DiffusionNoise,
    regularizer_of,
    same_draw,
    timestep_embedding,
    unwrap,
)
from gan_regularizers.commands.bench.baseline import official_sequence
from gan_regularizers.ops import TransformParams

PAGE = Path(__file__).parent.parent / "docs" / "coming-from.md"
OURS = {name: getattr(gan_regularizers, name) for name in gan_regularizers.__all__}
CALL = re.compile(r"`((?:DiffAugment|DiffusionNoise|AdaptiveT)(?:\.preset)?\(.*?\))`")
N, SIZE = 8, 16
BOX = (SIZE // 2, SIZE // 2)  # that the default cutout erases


def section(heading: str) -> str:
    (text,) = [part for part in PAGE.read_text().split("\n## ") if part.startswith(heading)]
    return text


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def tables(text: str) -> list[list[list[str]]]:
    """Each table as rows of cells, its head first; a row of dashes is left out."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if not line.startswith("|"):
            found.append([])
        elif not set(line) <= set("|- "):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [table for table in found if table]


def table(heading: str, *columns: str) -> list[list[str]]:
    """The rows under the one head of a section that has these columns."""
    (found,) = [rows for rows in tables(section(heading)) if tuple(rows[0]) == columns]
    return found[1:]


def images(n: int = N, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, channels, SIZE, SIZE, dtype=dtype) * 2 - 1


class Critic(nn.Module):
    """A discriminator that keeps what it saw."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.saw = x
        return self.first(x).mean((1, 2, 3))


class LabelledCritic(nn.Module):
    """Has t as one number beside its label, as that of Diffusion-GAN; ``line`` is what the page puts into forward."""

    def __init__(self, line: str = "") -> None:
        super().__init__()
        self.line = line
        self.first = nn.Conv2d(3, 8, 3)
        self.mapping = nn.Linear(2 + 1, 8)

    def forward(self, img: Tensor, c: Tensor, t: Tensor) -> Tensor:
        self.saw_t = t
        names = {"t": t}
        exec(self.line, names)
        self.told = names["t"]
        return (self.first(img).mean((2, 3)) * self.mapping(torch.cat((c, names["t"]), dim=1))).sum(1)


# The page


def test_every_line_of_python_is_that():
    found = blocks(PAGE.read_text())
    assert len(found) >= 9
    for block in found:
        ast.parse(block)
    for heading in ("DiffAugment_pytorch.py", "Diffusion-GAN", "kornia"):
        before, after, *_ = blocks(section(heading))
        assert before.startswith("# before")
        assert "gan_regularizers" in after


def test_every_call_in_the_text_can_be_made():
    calls = [call for call in CALL.findall(PAGE.read_text()) if "(x, " not in call]  # theirs
    assert len(calls) > 40
    D = gan_regularizers.wrap(Critic(), DiffusionNoise(), tell="scale-shift")
    names = {**OURS, "D": D, "policy": "color", "AdaptiveT": lambda D=D, **settings: AdaptiveT(D, **settings)}
    for call in calls:
        eval(call, names)


def test_defaults_are_those_of_the_signatures():
    checked = 0
    for rows in tables(PAGE.read_text()):
        if "ours, with its default" not in rows[0]:
            continue
        for row in rows[1:]:
            for call in CALL.findall(row[rows[0].index("ours, with its default")]):
                node = ast.parse(call, mode="eval").body
                parameters = inspect.signature(OURS[node.func.id]).parameters
                assert node.keywords
                assert not node.args
                for keyword in node.keywords:
                    assert parameters[keyword.arg].default == ast.literal_eval(keyword.value), keyword.arg
                    checked += 1
    assert checked >= 15


def test_attributes_and_options_are_there():
    text = PAGE.read_text()
    noise = DiffusionNoise()
    objects = {"noise": noise, "adapt": AdaptiveT(noise), "augment": DiffAugment()}
    found = {(name, attribute) for name in objects for attribute in re.findall(rf"\b{name}\.(\w+)", text)}
    assert len(found) > 8
    for name, attribute in found:
        assert hasattr(objects[name], attribute), f"{name}.{attribute}"
    upstream = (PAGE.parent / "upstream" / "README.md").read_text()
    rows = re.findall(r"^\| (`--reg.*?) \|", upstream, re.MULTILINE)
    known = {option for row in rows for option in re.findall(r"`(.*?)`", row)}
    options = {option.rstrip("-.") for option in re.findall(r"--reg[a-z-]*", text)}
    assert len(options) > 8
    assert options <= known


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", PAGE.read_text())
    assert len(links) > 4
    for path, anchor in links:
        target = (PAGE.parent / path).read_text()
        headings = re.findall(r"^#+ (.*)$", target, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{path}#{anchor}"


# DiffAugment_pytorch.py


def test_before_and_after_give_the_same_logits(monkeypatch):
    """With the draws of the latter in the former, whose file is a stand-in."""
    before, after, *_ = blocks(section("DiffAugment_pytorch.py"))
    real, fake = images(), images()
    names: dict[str, Any] = {"D": Critic(), "G": lambda z: z, "real": real, "z": fake}
    augment, drawn = DiffAugment(), []
    torch.manual_seed(0)
    for x in (real, fake):
        drawn += augment.sample(x)
    torch.manual_seed(0)
    exec(after, names)
    ours = names["real_logits"], names["fake_logits"]
    assert not torch.equal(names["D"].saw, fake)
    unwrap(names["D"])
    official = ModuleType("DiffAugment_pytorch")
    official.DiffAugment = lambda x, policy: (
        official_sequence(x, drawn.pop(0), cutout_size=BOX) if policy == augment.policy else x
    )
    monkeypatch.setitem(sys.modules, official.__name__, official)
    exec(before, names)
    assert not drawn
    torch.testing.assert_close(ours, (names["real_logits"], names["fake_logits"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "cutout,translation", "color,translation,cutout"])
def test_draws_of_ours_give_the_official_images_and_gradients(policy, dtype):
    for seed in range(10):
        torch.manual_seed(seed)
        x = images(dtype=dtype).requires_grad_()
        augment = DiffAugment(policy)
        params = augment.sample(x)
        ours, theirs = augment(x, params=params), x
        for one_pass in params:
            theirs = official_sequence(theirs, one_pass, cutout_size=BOX)
        weights = torch.randn_like(x)
        slopes = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, theirs)]
        if "color" in policy:
            bound = 1e-14 if dtype == torch.float64 else 5e-6
            assert float((ours - theirs).detach().abs().max()) < bound
            assert float((slopes[0] - slopes[1]).abs().max()) < bound
        else:
            assert torch.equal(ours, theirs)
            assert torch.equal(*slopes)


def test_words_of_the_copies_have_their_ranges():
    """By the scales of stylegan2-pytorch for brightness, saturation and contrast; 0 where a word leaves it out."""
    scales = {
        "brightness": (1, 0, 0),
        "lightbrightness": (0.65, 0, 0),
        "saturation": (0, 1, 0),
        "lightsaturation": (0, 0.5, 0),
        "contrast": (0, 0, 0.5),
        "lightcontrast": (0, 0, 0.25),
        "lightcolor": (0.65, 0.5, 0.5),
    }
    checked = set()
    for word, ours in table("DiffAugment_pytorch.py", "theirs", "ours"):
        name = re.findall("`(.*?)`", word)[0]
        if name not in scales:
            continue
        (call,) = CALL.findall(ours)
        augment = eval(call, OURS)
        b, s, k = scales[name]
        assert augment.policy == "color"
        assert augment.brightness == pytest.approx((-b / 2, b / 2))
        assert augment.saturation == pytest.approx((1 - s, 1 + s))
        assert augment.contrast == pytest.approx((1 - k, 1 + k))
        checked.add(name)
    assert checked == scales.keys()
    presets = (DiffAugment.preset(name) for name in ("projected_gan", "stylegan_xl", "diffusion_gan"))
    assert all(preset.cutout == 0.2 for preset in presets)


def test_the_flip_and_a_share_of_the_samples():
    *_, flipping = blocks(section("DiffAugment_pytorch.py"))
    names: dict[str, Any] = {**OURS, "D": Critic()}
    exec(flipping, names)
    x = torch.rand(400, 3, 8, 8)
    names["D"](x)
    saw = names["D"].saw
    as_they_came, turned = ((saw == other).flatten(1).all(1).float().mean() for other in (x, x.flip(3)))
    assert float(as_they_came) == pytest.approx(0.35, abs=0.1)
    assert float(turned) == pytest.approx(0.35, abs=0.1)
    part = regularizer_of(names["D"]).augment
    assert (part.policy, part.p, part.picture.value_range) == ("cutout,translation", 0.3, (0, 1))


def test_zero_to_one_without_the_range_is_what_the_official_file_does():
    x = torch.rand(N, 3, SIZE, SIZE, dtype=torch.float64)
    augment = DiffAugment()
    (params,) = augment.sample(x)
    torch.testing.assert_close(augment(x, params=(params,)), official_sequence(x, params, cutout_size=BOX))
    torch.manual_seed(0)
    ranged = DiffAugment(value_range=(0, 1))(x)
    torch.manual_seed(0)
    torch.testing.assert_close(ranged, (augment(2 * x - 1) + 1) / 2)


# Diffusion-GAN


def test_the_lines_for_diffusion_gan_run():
    _, after, line, *_ = blocks(section("Diffusion-GAN"))
    D = LabelledCritic(line)
    keys = set(D.state_dict())
    names: dict[str, Any] = {"D": D, "real": images(), "c": torch.zeros(N, 2)}
    exec(after, names)
    assert set(D.state_dict()) == keys
    assert names["real_logits"].shape == (N,)
    assert (D.saw_t.dtype, D.saw_t.shape) == (torch.int64, (N,))
    assert (D.told.dtype, D.told.shape) == (torch.float32, (N, 1))
    assert torch.equal(D.told, D.saw_t[:, None].float())
    noise = regularizer_of(D).noise
    assert (noise.T, noise.t_max, noise.distribution) == (10, 1000, "priority")
    adapt = names["adapt"]
    for _ in range(adapt.interval - 1):
        adapt.observe(torch.ones(N))
        adapt.step(N)
    assert float(adapt.p) == pytest.approx(4 * N / 100_000)  # the official step, batch_size * ada_interval
    assert AdaptiveT(gan_regularizers.wrap(LabelledCritic(line), DiffusionNoise()), initial_p=0.3).T == 157


def test_defaults_of_the_official_trees():
    columns = "tree", "t_min", "t_max", "sigma", "beta_end", "distribution", "ours"
    rows = table("Diffusion-GAN", *columns)
    assert len(rows) == 4
    for _, t_min, t_max, sigma, beta_end, distribution, ours in rows:
        noise = eval(CALL.findall(ours)[0], OURS)
        assert (noise.t_min, noise.t_max) == (int(t_min), int(t_max))
        assert (noise.noise_std, noise.beta_end, noise.distribution) == (float(sigma), float(beta_end), distribution)
        assert (noise.beta_start, noise.schedule, noise.parity) == (1e-4, "linear", "official")
    assert DiffusionNoise.preset("stylegan2_ffhq").t_max == 500
    assert DiffusionNoise.preset("insgen").t_min == 5
    assert noise.per_channel


def test_what_the_text_says_of_the_noise():
    noise = DiffusionNoise(parity="paper")
    assert noise.t_min == 5
    noise = DiffusionNoise()
    assert noise.t_min == 10
    assert (len(noise.t_list), int((noise.t_list == 0).sum())) == (64, 32)
    noise.set_p(0.3)
    before = noise.t_list.clone()
    assert noise.T == 157
    noise.set_p(0.3)
    assert torch.equal(noise.t_list, before)
    noise.set_p(0.3, redraw=True)
    assert not torch.equal(noise.t_list, before)
    noise.set_p(1.0)
    assert float(noise.noise_scale[-1]) == pytest.approx(0.05, rel=0.01)
    assert timestep_embedding(torch.arange(3)).shape == (3, 64)


# kornia


@pytest.fixture(scope="module")
def K() -> ModuleType:  # noqa: N802
    return pytest.importorskip("kornia.augmentation")


def test_what_the_box_cuts_away():
    share = (DiffAugment("cutout", value_range=(0, 1))(torch.ones(20_000, 1, 32, 32)) == 0.5).float().mean((1, 2, 3))
    assert (float(share.min()), float(share.max())) == (0.0625, 0.25)
    assert float(share.mean()) == pytest.approx(0.19, abs=0.005)


@pytest.mark.usefixtures("K")
def test_the_lines_for_kornia_run():
    before, after, beside = blocks(section("kornia.augmentation"))
    x = images()
    names: dict[str, Any] = {"D": Critic(), "images": x, "images01": (x + 1) / 2}
    for block in (before, after):
        exec(block, names)
        assert names["logits"].shape == (N,)
    names["D"] = D = Critic()
    exec(beside, names)
    with same_draw(D):
        D(x)
        once = D.saw
        D(x)
        assert torch.equal(D.saw, once)
    D(x)
    assert not torch.equal(D.saw, once)
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert bool(D.first.weight.grad.any())


def test_what_is_equal_to_kornia(K):
    x = torch.rand(N, 3, 32, 32)
    _, ours, same = table("kornia.augmentation", "kornia", "ours", "the same?")[0]
    assert same.startswith("yes")
    (call,) = CALL.findall(ours)
    for factor in (0.5, 0.8, 1.5):
        b = 2 * (factor - 1)
        one = call.replace("(-1, 1)", f"({b}, {b})")
        assert one != call
        theirs = K.RandomBrightness((factor, factor), clip_output=False)(x)
        torch.testing.assert_close(eval(one, OURS)(x), theirs, rtol=0, atol=2e-7)
    low, high = eval(call, OURS).brightness
    assert (low, high) == (-1, 1)
    x = torch.rand(N, 3, 33, 20)
    for down, right in ((4, 0), (0, -3), (2, 3)):
        theirs = K.RandomTranslate((right / 20, right / 20), (down / 33, down / 33), p=1.0)(x)
        shift = torch.tensor([[down, right]] * N)
        ours = DiffAugment("translation")(x, params=(TransformParams(shift=shift),))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_what_is_not_equal_to_kornia(K):
    x = torch.rand(N, 3, 16, 16)
    twice = K.RandomContrast((2.0, 2.0), clip_output=False)(x)
    torch.testing.assert_close(twice, 2 * x)
    assert K.RandomBrightness().p == 1.0
    assert {kind().p for kind in (K.RandomTranslate, K.RandomErasing, K.RandomGaussianNoise)} == {0.5}
    erased = K.RandomErasing(scale=(0.25, 0.25), ratio=(1.0, 1.0), p=1.0)(torch.ones(200, 1, 32, 32))
    assert torch.equal(erased.mean((1, 2, 3)), torch.full((200,), 0.75))
    clipped = images().requires_grad_()
    y = K.RandomBrightness((1.0, 1.0))(clipped)
    (slope,) = torch.autograd.grad(y.sum(), clipped)
    assert bool((y[clipped < 0] == 0).all())
    assert not slope[clipped < 0].any()
    saturated = K.RandomSaturation((0.5, 0.5))(x)
    torch.testing.assert_close(saturated.amax(1), x.amax(1))
    mask = DiffAugment("cutout", channels=slice(0, 3), value_range=(0, 1))(torch.ones(N, 4, 16, 16))[:, 3]
    assert set(mask.unique().tolist()) == {0.5, 1.0}
