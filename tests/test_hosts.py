"""The recipes of docs/hosts.md, run as they stand there in small hosts that treat D as the real ones do."""

import ast
import copy
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import gan_regularizers
from gan_regularizers import DiffAugment, DiffusionNoise, WrapWarning, regularizer_of, same_draw, unwrap, wrap

DOCS = Path(__file__).parent.parent / "docs" / "hosts.md"
N = 8  # images in a batch
INTERVAL = 4  # batches between two moves of T
LOW = 0.3  # a verdict between 0 and the midpoint of least squares


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These tensors are too small to share, and threads that wait for each other take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def recipes() -> dict[str, dict[str, str]]:
    """The lines of each recipe by its heading and the comments that say where they go."""
    found = {}
    for section in DOCS.read_text().split("\n### ")[1:]:
        heading, text = section.split("\n", 1)
        (block,) = blocks(text)
        parts = [part.split("\n", 1) for part in block.strip().split("\n\n")]
        found[heading] = {where.removeprefix("# "): lines for where, lines in parts}
    return found


class Recipe:
    """A recipe, whose lines run where a host says."""

    def __init__(self, heading: str) -> None:
        self.heading = heading
        self.lines = recipes()[heading]
        self.names: dict[str, Any] = {"torch": torch, "nn": nn}
        self.names.update({name: getattr(gan_regularizers, name) for name in gan_regularizers.__all__})

    def run(self, where: str, /, **names: Any) -> dict[str, Any]:
        self.names.update(names)
        exec(compile(self.lines[where], f"{DOCS.name}, {self.heading}, {where}", "exec"), self.names)
        return self.names


class Critic(nn.Module):
    """A discriminator that keeps what it saw; before it is trained it says ``verdict`` to everything."""

    def __init__(self, channels: int = 3, verdict: float = 5.0, first: type = nn.Conv2d) -> None:
        super().__init__()
        self.first = first(channels, 8, 3, stride=2, padding=1)
        self.last = nn.Linear(8, 1)
        nn.init.uniform_(self.last.weight, -0.05, 0.05)
        nn.init.constant_(self.last.bias, verdict)

    def features(self, x: Tensor) -> Tensor:
        self.saw = x
        return F.leaky_relu(self.first(x), 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x).mean((2, 3))).squeeze(1)


class Painter(nn.Module):
    """A generator."""

    def __init__(self, channels: int = 3, size: int = 16) -> None:
        super().__init__()
        self.shape = channels, size, size
        self.layer = nn.Linear(4, channels * size * size)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).view(-1, *self.shape).tanh()


def images(size: int = 16, channels: int = 3, n: int = N) -> Tensor:
    return torch.rand(n, channels, size, size) * 2 - 1


def changed(saw: Tensor, image: Tensor) -> Tensor:
    """Which samples are not as they came."""
    assert saw.shape == image.shape
    return (saw != image).flatten(1).any(1)


def has_gradients(module: nn.Module) -> bool:
    return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters()) and any(
        bool(p.grad.any()) for p in module.parameters()
    )


def from_disk(checkpoint: Any) -> Any:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_state(adapt: nn.Module, other: nn.Module) -> None:
    assert float(adapt.p) > 0
    assert (float(adapt.p), float(adapt.r_d), adapt.T) == (float(other.p), float(other.r_d), other.T)


# The documentation itself


def test_all_code_of_the_documentation_compiles():
    found = blocks(DOCS.read_text())
    assert len(found) > 16
    for block in found:
        ast.parse(block)


def test_each_recipe_has_a_test_that_runs_all_of_its_lines():
    source = Path(__file__).read_text()
    assert len(recipes()) >= 16
    for heading, lines in recipes().items():
        name = re.sub(r"\W+", "_", heading.lower()).strip("_")
        assert f"def test_{name}(" in source
        assert f'Recipe("{heading}")' in source
        for where in lines:
            assert f'"{where}"' in source, f"no test runs the lines of {heading!r}, {where!r}"
        assert sum(len(part.strip().splitlines()) for part in lines.values()) <= 8


def test_what_holds_for_every_host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    imports, save, off, compiled = blocks(DOCS.read_text().split("\n## Recipes")[0])
    names: dict[str, Any] = {"torch": torch, "images": images()}
    exec(imports, names)
    monkeypatch.setattr(torch, "compile", lambda D: D)  # tests/test_compile.py compiles
    D = names["D"] = Critic()
    exec(compiled, names)
    names["adapt"].noise.set_p(0.5)
    exec(save, names)
    assert names["checkpoint"]["D"].keys() == D.state_dict().keys()
    exec(off, names)
    assert D.saw is names["images"]
    D(names["images"])
    assert changed(D.saw, names["images"]).all()


def test_checkpoints_are_those_of_d_alone():
    old = Critic().state_dict()
    told_nothing = wrap(Critic(), DiffAugment(), DiffusionNoise(), tell="nothing")
    told_nothing.load_state_dict(from_disk(old))
    Critic().load_state_dict(from_disk(told_nothing.state_dict()))
    told = Critic()
    told.load_state_dict(old)
    wrap(told, DiffAugment(), DiffusionNoise(), tell="scale-shift")
    again = wrap(Critic(), DiffAugment(), DiffusionNoise(), tell="scale-shift")
    again.load_state_dict(from_disk(told.state_dict()))
    Critic().load_state_dict(unwrap(told).state_dict())


def test_two_images_of_a_call_share_their_noise():
    class Pair(nn.Module):
        def forward(self, x, x_t):
            self.saw = x, x_t
            return (x - x_t).mean((1, 2, 3))

    D, x, x_t = Pair(), images(), images()
    noise = DiffusionNoise(clean_share=0.0)
    wrap(D, noise, inputs=("x", "x_t"), tell="nothing")
    with same_draw(D) as draw:
        D(x, x_t)
    gain = draw.calls[0].params[0].noise.gain.view(-1, 1, 1, 1)
    assert changed(D.saw[0], gain * x).all()
    torch.testing.assert_close(D.saw[0] - D.saw[1], gain * (x - x_t))


# Recipes


class ScaledConv(nn.Module):
    """A convolution with a weight of its own, scaled when it runs."""

    def __init__(self, channels: int, out: int, size: int, **settings: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, size, size))
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight[0].numel() ** 0.5, **self.settings)


def test_stylegan2_rosinality():
    recipe = Recipe("StyleGAN2 (rosinality)")
    D, G = Critic(first=ScaledConv), Painter()
    recipe.run("in the main program, before the optimisers", discriminator=D)
    d_optim, g_optim = torch.optim.Adam(D.parameters(), 1e-4), torch.optim.Adam(G.parameters(), 1e-4)
    for i in range(INTERVAL):
        real, fake = images(), G(torch.randn(N, 4))
        D.requires_grad_(True)
        fake_pred = D(fake.detach())
        assert changed(D.saw, fake).all()
        real_pred = D(real)
        assert changed(D.saw, real).all()
        D.zero_grad()
        (F.softplus(-real_pred) + F.softplus(fake_pred)).mean().backward()
        assert has_gradients(D)
        d_optim.step()
        recipe.run("in train(), after D's step", real_pred=real_pred, real_img=real)
        if i % 2 == 0:
            real.requires_grad_()
            real_pred = D(real)
            (slope,) = torch.autograd.grad(real_pred.sum(), real, create_graph=True)
            D.zero_grad()
            (5 * slope.square().sum((1, 2, 3)).mean() + 0 * real_pred[0]).backward()
            assert D.first.weight.grad.any()
            d_optim.step()
        D.requires_grad_(False)
        G.zero_grad()
        F.softplus(-D(G(torch.randn(N, 4)))).mean().backward()
        assert has_gradients(G)
        g_optim.step()
    adapt = recipe.names["adapt"]
    assert float(adapt.r_d) == 1.0
    checkpoint = {"d": D.state_dict(), "g": G.state_dict(), "d_optim": d_optim.state_dict()}
    recipe.run("in the dictionary that is saved", checkpoint=checkpoint)

    ckpt, resumed = from_disk(checkpoint), Recipe("StyleGAN2 (rosinality)")
    D_again = Critic(first=ScaledConv)
    resumed.run("in the main program, before the optimisers", discriminator=D_again)
    D_again.load_state_dict(ckpt["d"])
    torch.optim.Adam(D_again.parameters(), 1e-4).load_state_dict(ckpt["d_optim"])
    resumed.run("where it is loaded", ckpt=ckpt)
    assert_same_state(adapt, resumed.names["adapt"])


class ProjectionCritic(Critic):
    """Takes labels; its optimiser is its own."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, 8)
        self.optim = torch.optim.Adam(self.parameters(), 1e-3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.labels = y
        h = self.features(x).mean((2, 3))
        return self.last(h).squeeze(1) + (self.embed(y) * h).sum(1) / 8


class Joined(nn.Module):
    """G and D, which gets fakes and reals in one batch."""

    def __init__(self, G: nn.Module, D: nn.Module) -> None:
        super().__init__()
        self.G, self.D = G, D

    def forward(self, z: Tensor, gy: Tensor, x: Tensor | None = None, dy: Tensor | None = None) -> Any:
        with torch.set_grad_enabled(x is None):
            fake = self.G(z)
        if x is None:
            return self.D(fake, gy)
        self.joined = torch.cat([fake, x]), torch.cat([gy, dy])
        return self.D(*self.joined).split([len(fake), len(x)])


def test_biggan():
    recipe = Recipe("BigGAN")
    D, G = ProjectionCritic(), Painter()
    G_ema = copy.deepcopy(G)
    recipe.run("in train.py, before G and D are joined in GD", D=D)
    GD = Joined(G, D)
    G_optim = torch.optim.Adam(G.parameters(), 1e-3)
    for _ in range(INTERVAL):
        x, y = images(n=8).split(4), torch.randint(0, 3, (8,)).split(4)
        D.requires_grad_(True)
        for step in range(2):
            D.optim.zero_grad()
            D_fake, D_real = GD(torch.randn(4, 4), torch.randint(0, 3, (4,)), x[step], y[step])
            assert changed(D.saw, GD.joined[0]).all()
            assert torch.equal(D.labels, GD.joined[1])
            (F.relu(1 - D_real) + F.relu(1 + D_fake)).mean().backward()
            recipe.run("in the training function, for each of D's losses", D_real=D_real)
            D.optim.step()
        D.requires_grad_(False)
        G_optim.zero_grad()
        (-GD(torch.randn(4, 4), torch.randint(0, 3, (4,)))).mean().backward()
        assert has_gradients(G)
        G_optim.step()
        recipe.run("at its end; x are the chunks of all of D's steps", x=x)
        with torch.no_grad():
            for average, now in zip(G_ema.state_dict().values(), G.state_dict().values(), strict=True):
                average.lerp_(now, 0.1)
    adapt = recipe.names["adapt"]
    assert float(adapt.r_d) == 1.0
    assert float(adapt.p) == pytest.approx(INTERVAL * 8 / 100_000)
    assert D.first.scale_shift.modulate_weight.any()  # D's own optimiser trains it
    state_dict = {"itr": INTERVAL}
    recipe.run("before weights are saved", state_dict=state_dict)

    resumed, D_again = Recipe("BigGAN"), ProjectionCritic()
    resumed.run("in train.py, before G and D are joined in GD", D=D_again)
    D_again.load_state_dict(from_disk(D.state_dict()), strict=True)
    D_again.optim.load_state_dict(from_disk(D.optim.state_dict()))
    resumed.run("after they are loaded", state_dict=from_disk(state_dict))
    assert_same_state(adapt, resumed.names["adapt"])


class GrowingCritic(nn.Module):
    """Stage s takes images of 4 * 2**s pixels and begins with a layer of its own; returns a score and classes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.from_rgb = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in range(3))  # the largest images first
        recipe.run("in D.__init__", self=self, channels=8)
        self.last = nn.Linear(8, 4)
        self.recipe = recipe

    def forward(self, x: Tensor, step: int = 0, alpha: float = -1, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.saw, self.stage, self.told = x, (step, alpha), t
        h = self.from_rgb[2 - step](x)
        if step > 0 and 0 <= alpha < 1:
            skip = self.from_rgb[3 - step](F.avg_pool2d(x, 2))
            h = alpha * h + (1 - alpha) * F.interpolate(skip, scale_factor=2)
        where = "in D.forward(self, x, step, alpha, t=None), before the last block, where h is [N, channels, 4, 4]"
        h = self.recipe.run(where, self=self, h=F.adaptive_avg_pool2d(h, 4), t=t)["h"]
        out = self.last(F.leaky_relu(h, 0.2).mean((2, 3)))
        return out[:, 0], out[:, 1:]


def test_progressive_growing():
    recipe = Recipe("Progressive growing")
    D = GrowingCritic(recipe)
    recipe.run("after D is built", D=D)
    adapt, d_optim = recipe.names["adapt"], torch.optim.Adam(D.parameters(), 1e-3)
    adapt.noise.set_p(1.0)
    for step in range(3):
        size, d = 4 * 2**step, D.from_rgb[2 - step]
        for i in range(INTERVAL):
            real, fake, alpha = images(size), images(size), (i + 1) / INTERVAL
            D.zero_grad()
            with same_draw(D) as draw:
                real_scores, _ = D(real, step, alpha)
            assert changed(D.saw, real).all()
            assert D.stage == (step, alpha)
            assert torch.equal(D.told, draw.calls[0].t)
            fake_scores, _ = D(fake, alpha=alpha, step=step)
            assert changed(D.saw, fake).all()
            mixed = (real.lerp(fake, torch.rand(N, 1, 1, 1))).requires_grad_()
            (slope,) = torch.autograd.grad(D(mixed, step, alpha)[0].sum(), mixed, create_graph=True)
            penalty = 10 * (slope.flatten(1).norm(2, dim=1) - 1).square().mean()
            (fake_scores.mean() - real_scores.mean() + penalty).backward()
            assert d.weight.grad.any()
            assert D.from_t.weight.grad.any()  # D is told at every stage
            d_optim.step()
            # To a difference, -6 for reals and -7 for fakes is as good as 1 and 0.
            recipe.run("in D's step", real_scores=fake_scores * 0 - 6, fake_scores=fake_scores * 0 - 7, real=real)
        assert float(adapt.r_d) == 1.0


def test_pix2pix():
    recipe = Recipe("pix2pix")
    model = nn.Module()
    model.netD = Critic(channels=6)
    recipe.run("after netD is built, before its optimiser", self=model)
    optimizer = torch.optim.Adam(model.netD.parameters(), 1e-4)
    for _ in range(INTERVAL):
        condition, model.real_B, fake_B = torch.ones(N, 3, 16, 16), images(), images().requires_grad_()
        for image in (fake_B.detach(), model.real_B):
            with torch.no_grad():
                model.netD(torch.cat([condition, image], 1))
            saw_condition, saw_image = model.netD.saw.split(3, 1)
            assert changed(saw_image, image).all()
            assert set(saw_condition.unique().tolist()) == {0.0, 1.0}  # moved and cut, but of no other colour
        pred_fake = model.netD(torch.cat([condition, fake_B.detach()], 1))
        pred_real = model.netD(torch.cat([condition, model.real_B], 1))
        optimizer.zero_grad()
        (F.softplus(pred_fake) + F.softplus(-pred_real)).mean().backward()
        optimizer.step()
        recipe.run("at the end of backward_D", self=model, pred_real=pred_real)
        F.softplus(-model.netD(torch.cat([condition, fake_B], 1))).mean().backward()
        assert fake_B.grad.any()
    assert float(model.adapt.r_d) == 1.0

    regularizer_of(model.netD).noise.enabled = False
    model.netD(torch.cat([condition, model.real_B], 1))
    saw_condition, saw_image = model.netD.saw.split(3, 1)
    assert torch.equal(saw_condition == 0, saw_image == 0)  # the two moved together
    Critic(channels=6).load_state_dict(unwrap(model.netD).state_dict())


def test_cyclegan():
    recipe = Recipe("CycleGAN")
    model = nn.Module()
    model.netD_A, model.netD_B = Critic(verdict=5.0), Critic(verdict=LOW)
    if not torch.cuda.is_available():
        model.netD_A = nn.DataParallel(model.netD_A)  # as the function that builds D returns it
    recipe.run("after both D are built, before their optimiser", self=model)
    parameters = [*model.netD_A.parameters(), *model.netD_B.parameters()]
    optimizer, pools = torch.optim.Adam(parameters, 1e-4), {model.netD_A: [], model.netD_B: []}
    for _ in range(INTERVAL):
        optimizer.zero_grad()
        for netD, pool in pools.items():
            D, real, made = getattr(netD, "module", netD), images(), images()
            pool.append(made.clone())
            fake = pool[0]  # an old one
            pred_real = netD(real)
            assert changed(D.saw, real).all()
            where = "in backward_D_basic(self, netD, real, fake), after netD has seen the reals"
            recipe.run(where, self=model, netD=netD, real=real, pred_real=pred_real)
            before, first = fake.clone(), None
            for _ in range(2):
                pred_fake = netD(fake)
                assert changed(D.saw, fake).all()
                assert first is None or changed(D.saw, first).all()  # augmented anew
                first = D.saw
            assert torch.equal(fake, before)
            ((pred_real - 1).square() + pred_fake.square()).mean().backward()
        optimizer.step()
    assert (float(model.adapt_A.r_d), float(model.adapt_B.r_d)) == (1.0, -1.0)
    assert float(model.adapt_A.p) > 0 == float(model.adapt_B.p)


class ScalesCritic(nn.Module):
    """Two parts, the second on smaller images; returns for each the features and, last, the verdict."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Critic(channels, LOW) for _ in range(2))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        self.saw, outputs = x, []
        for part in self.parts:
            features = part.features(x)
            outputs.append([features, part.last(features.mean((2, 3)))])
            x = F.avg_pool2d(x, 2)
        return outputs


def matching(fakes: list[list[Tensor]], reals: list[list[Tensor]]) -> float:
    pairs = [(f, r) for fake, real in zip(fakes, reals, strict=True) for f, r in zip(fake, real, strict=True)]
    return float(sum((f - r).abs().mean() for f, r in pairs).detach())


def test_pix2pixhd_and_spade():
    recipe = Recipe("pix2pixHD and SPADE")
    D = ScalesCritic(channels=5)
    recipe.run("after D is built, before its optimiser", D=D)
    optimizer = torch.optim.Adam(D.parameters(), 1e-4)
    label = F.one_hot(torch.randint(0, 2, (N, 16, 16)), 2).movedim(3, 1).float()
    for _ in range(INTERVAL):
        real = images()
        names = recipe.run("all calls of D whose features are compared", D=D, label=label, fake=real.clone(), real=real)
        assert matching(names["pred_fake"], names["pred_real"]) == 0.0  # of a perfect G
        assert matching(D(torch.cat([label, real], 1)), names["pred_real"]) > 0.01  # of two draws
        assert changed(D.saw[:, 2:], real).all()
        assert set(D.saw[:, :2].unique().tolist()) == {0.0, 1.0}  # the label has no other colour
        worse = recipe.run("all calls of D whose features are compared", fake=images().requires_grad_())
        assert matching(worse["pred_fake"], worse["pred_real"]) > 0.01
        optimizer.zero_grad()
        sum((o[-1] - 1).square().mean() for o in worse["pred_real"]).backward()
        assert has_gradients(D.parts[1])
        optimizer.step()
        recipe.run("in D's step")
    assert float(recipe.names["adapt"].r_d) == -1.0
    wrap(unwrap(D), DiffAugment())
    with pytest.warns(WrapWarning, match=r"D\.forward"):
        D.forward(torch.cat([label, real], 1))


class WaveCritic(nn.Module):
    """Several parts, which look at every ``period``-th value or at an average; takes a real and a generated wave."""

    def __init__(self, periods: tuple[int, ...]) -> None:
        super().__init__()
        self.periods = periods
        self.discriminators = nn.ModuleList(weight_norm(nn.Conv1d(1, 4, 5, 2)) for _ in periods)

    def forward(self, y: Tensor, y_hat: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        self.saw = y, y_hat
        scores, features = ([], []), ([], [])
        for period, part in zip(self.periods, self.discriminators, strict=True):
            for i, wave in enumerate((y, y_hat)):
                features[i].append(F.leaky_relu(part(F.avg_pool1d(wave, period)), 0.1))
                scores[i].append(features[i][-1].mean(1) * 0.1 + LOW)
        return *scores, *features


def test_hifi_gan():
    recipe = Recipe("HiFi-GAN")
    mpd, msd = WaveCritic((2, 3)), WaveCritic((1, 4))
    recipe.run("before the optimisers", mpd=mpd, msd=msd)
    adapt = recipe.names["adapt"]
    adapt.noise.set_p(1.0)
    optim_d = torch.optim.AdamW([*msd.parameters(), *mpd.parameters()], 1e-4)
    for _ in range(INTERVAL):
        y, made = torch.rand(16, 1, 64) * 2 - 1, (torch.rand(16, 1, 64) * 2 - 1).requires_grad_()
        for D in (mpd, msd):
            D(y, made.detach())
            noisy = changed(D.saw[0], y)
            assert torch.equal(noisy, changed(D.saw[1], made))  # reals and fakes alike
            assert 0 < noisy.sum() < 16  # the share of clean ones
        optim_d.zero_grad()
        y_df_hat_r, y_df_hat_g, _, _ = mpd(y, made.detach())
        y_ds_hat_r, y_ds_hat_g, _, _ = msd(y, made.detach())
        reals, fakes = y_df_hat_r + y_ds_hat_r, y_df_hat_g + y_ds_hat_g
        (sum((1 - r).square().mean() for r in reals) + sum(f.square().mean() for f in fakes)).backward()
        optim_d.step()
        recipe.run("in D's step, after both have run", y_df_hat_r=y_df_hat_r, y_ds_hat_r=y_ds_hat_r, y=y)
        for D in (mpd, msd):
            *_, fmap_r, fmap_g = D(y, y.clone())
            assert matching([fmap_r], [fmap_g]) == 0.0  # of a perfect G
            *_, fmap_r, fmap_g = D(y, made)
            assert matching([fmap_r], [fmap_g]) > 0.01
            sum(f.mean() for f in fmap_g).backward()
        assert made.grad.any()
    assert float(adapt.r_d) == -1.0
    assert regularizer_of(mpd) is regularizer_of(msd)
    again = Recipe("HiFi-GAN")
    others = WaveCritic((2, 3)), WaveCritic((1, 4))
    again.run("before the optimisers", mpd=others[0], msd=others[1])
    for other, D in zip(others, (mpd, msd), strict=True):
        other.load_state_dict(from_disk(D.state_dict()))


class TokenizerLoss(nn.Module):
    """A reconstruction's losses, D among them; D is trained from one step on."""

    def __init__(self, recipe: Recipe, start: int, channels: int = 3) -> None:
        super().__init__()
        self.discriminator_iter_start = start
        self.perceptual = Critic().requires_grad_(False)
        self.discriminator = Critic(channels)
        recipe.run("at the end of the loss module's __init__", self=self)
        self.recipe = recipe

    def forward(
        self, inputs: Tensor, reconstructions: Tensor, optimizer: int, global_step: int, last_layer: Tensor
    ) -> Tensor:
        factor = float(global_step >= self.discriminator_iter_start)
        if optimizer == 0:
            reconstruction = (inputs - reconstructions).abs().mean()
            reconstruction = reconstruction + (self.perceptual(inputs) - self.perceptual(reconstructions)).abs().mean()
            assert self.perceptual.saw is reconstructions
            verdict = -self.discriminator(reconstructions).mean()
            slopes = [torch.autograd.grad(x, last_layer, retain_graph=True)[0] for x in (reconstruction, verdict)]
            self.weight = (slopes[0].norm() / (slopes[1].norm() + 1e-4)).clamp(0, 1e4).detach()
            return reconstruction + factor * self.weight * verdict
        logits_fake = self.discriminator(reconstructions.detach())
        assert changed(self.discriminator.saw, reconstructions).all()
        logits_real = self.discriminator(inputs)
        assert changed(self.discriminator.saw, inputs).all()
        self.recipe.run("in D's step", self=self, global_step=global_step, logits_real=logits_real, inputs=inputs)
        return factor * (F.relu(1 - logits_real) + F.relu(1 + logits_fake)).mean()


def test_vqgan_and_other_tokenizers():
    recipe = Recipe("VQGAN and other tokenizers")
    loss, decoder = TokenizerLoss(recipe, start=3), nn.Conv2d(3, 3, 3, padding=1)
    optimizers = [torch.optim.Adam(decoder.parameters(), 1e-4), torch.optim.Adam(loss.discriminator.parameters(), 1e-4)]
    nothing = loss.adapt.get_extra_state().clone()
    for step in range(3 + INTERVAL):
        x = images()
        for i, optimizer in enumerate(optimizers):
            optimizer.zero_grad()
            loss(x, decoder(x).tanh(), i, step, decoder.weight).backward()
            optimizer.step()
        assert 0 < float(loss.weight) < 1e4
        waits = step < 3 or step == 2 + INTERVAL  # D has not begun, or T has just moved
        assert torch.equal(loss.adapt.get_extra_state(), nothing) == waits
    assert float(loss.adapt.r_d) == 1.0
    loss.eval()
    loss(x, decoder(x), 1, step, decoder.weight)
    assert torch.equal(loss.adapt.get_extra_state(), nothing)  # nothing of a validation
    again = TokenizerLoss(Recipe("VQGAN and other tokenizers"), start=3)
    again.load_state_dict(from_disk(loss.state_dict()))
    assert_same_state(loss.adapt, again.adapt)


def test_vqgan_with_a_condition():
    D, condition = Critic(channels=4), torch.ones(N, 1, 16, 16)
    picture = slice(0, 3)
    wrap(D, DiffAugment(channels=picture), DiffusionNoise(channels=picture), tell="scale-shift")
    x = images()
    D(torch.cat([x, condition], 1))
    assert changed(D.saw[:, picture], x).all()
    assert set(D.saw[:, 3:].unique().tolist()) == {0.0, 1.0}


class DecodingCritic(Critic):
    """Takes one image or a list of two sizes, and, of reals, paints what it saw."""

    def forward(self, imgs: Any, label: str, part: int | None = None) -> Any:
        if type(imgs) is not list:
            imgs = [F.interpolate(imgs, size=16), F.interpolate(imgs, size=8)]
        self.saw_both = imgs
        verdict = torch.cat([self.last(self.features(x).mean((2, 3))) for x in imgs])
        if label == "fake":
            return verdict
        quarter = (slice(None), slice(None), slice(8 * (part // 2), None), slice(8 * (part % 2), None))
        whole = F.interpolate(imgs[0], size=8)
        return verdict, [whole, F.interpolate(imgs[1], size=8), imgs[0][quarter][..., :8, :8]]


def test_fastgan():
    recipe = Recipe("FastGAN")
    D = DecodingCritic()
    recipe.run("after netD's weights are initialised, before the optimisers", netD=D)
    optimizer = torch.optim.Adam(D.parameters(), 1e-4)
    for part in range(INTERVAL):
        real, fakes = images(), [images(16), images(8)]
        kept = list(fakes)
        names = recipe.run("in D's step on reals", netD=D, data=real, part=part)
        assert changed(D.saw_both[0], real).all()
        saw = names["data"]
        assert torch.equal(names["rec_all"], F.interpolate(saw, size=8))  # what D saw is what it is to paint
        assert not torch.equal(names["rec_all"], F.interpolate(real, size=8))
        with same_draw(D) as draw:
            verdict = D(fakes, "fake")
        assert all(a is b for a, b in zip(fakes, kept, strict=True))  # the caller's list
        assert all(changed(a, b).all() for a, b in zip(D.saw_both, fakes, strict=True))
        big, small = (params.augment[0] for params in draw.calls[0].params)
        assert torch.equal(big.brightness, small.brightness)
        assert ((big.shift - 2 * small.shift).abs() <= 2).all()  # in proportion, to a pixel of the small one
        assert torch.equal(*(params.noise.t for params in draw.calls[0].params))
        optimizer.zero_grad()
        (F.relu(1 - names["pred"]).mean() + F.relu(1 + verdict).mean()).backward()
        optimizer.step()
    assert float(recipe.names["adapt"].r_d) == 1.0


def copy_by_name(source: nn.Module, target: nn.Module) -> int:
    """Copy parameters and buffers whose names match, and no others; return how many."""
    found, copied = {**dict(source.named_parameters()), **dict(source.named_buffers())}, 0
    with torch.no_grad():
        for name, tensor in [*target.named_parameters(), *target.named_buffers()]:
            if name in found:
                tensor.copy_(found[name])
                copied += 1
    return copied


def zero_centred(scores: Tensor, samples: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(scores.sum(), samples, create_graph=True)
    return slope.square().sum((1, 2, 3))


class HoldsWeight(nn.Module):
    """A layer that uses the weight of the one in it, which is not called."""

    def __init__(self, *sizes: int, **settings: int) -> None:
        super().__init__()
        self.Layer = nn.Conv2d(*sizes, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.Layer.weight, self.Layer.bias, stride=2, padding=1)


class RelativisticCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Model = Critic(first=HoldsWeight)
        self.Model.ExtractionLayer = self.Model.first
        del self.Model.first
        object.__setattr__(self.Model, "first", self.Model.ExtractionLayer)

    def forward(self, x: Tensor) -> Tensor:
        return self.Model(x)


def test_r3gan():
    recipe = Recipe("R3GAN")
    old, D, G = RelativisticCritic(), RelativisticCritic().requires_grad_(False), Painter()
    recipe.run("after D is built, before the resume", D=D)
    assert copy_by_name(pickle.loads(pickle.dumps(old)), D) == len(dict(old.named_parameters())) == 4
    x = images()
    with regularizer_of(D).off():
        assert torch.equal(D(x), old(x))  # the embedding of t is the identity at first
    optimizer = torch.optim.Adam(D.parameters(), 1e-4)
    for _ in range(INTERVAL):
        D.requires_grad_(True)
        real, fake = images().requires_grad_(), G(torch.randn(N, 4)).detach().requires_grad_()
        real_logits, fake_logits = D(real), D(fake)
        penalty = zero_centred(real_logits, real) + zero_centred(fake_logits, fake)
        optimizer.zero_grad()
        penalty.mean().backward(retain_graph=True)
        assert D.Model.ExtractionLayer.Layer.weight.grad.any()
        (F.softplus(fake_logits - real_logits) + penalty).mean().backward()
        assert has_gradients(D)
        optimizer.step()
        # D puts all on one side of 0, and the reals below the fakes.
        recipe.run("in D's step", real_logits=real_logits * 0 + 5, fake_logits=fake_logits * 0 + 6)
        recipe.run("once in an iteration", batch_size=N, num_gpus=1)
        D.requires_grad_(False)
        F.softplus(D(real.detach()) - D(G(torch.randn(N, 4)))).mean().backward()
        assert has_gradients(G)
    assert float(recipe.names["adapt"].r_d) == -1.0
    snapshot = pickle.loads(pickle.dumps(D))  # the whole of D, with its hook
    another = wrap(RelativisticCritic(), DiffusionNoise(), tell="Model.ExtractionLayer")
    assert copy_by_name(snapshot, another) == len(list(D.parameters()))
    snapshot(x)
    assert changed(snapshot.Model.saw, x).all()
    assert D.Model.ExtractionLayer.scale_shift.modulate_weight.any()  # D was told t, and learned from it


class DualCritic(Critic):
    """Takes a dictionary with an image and its raw rendering, and the camera."""

    def __init__(self, first: type = nn.Conv2d) -> None:
        super().__init__(channels=6, first=first)

    def forward(self, img: dict[str, Tensor], c: Tensor, update_emas: bool = False) -> Tensor:
        self.got, self.camera, self.updated = img, c, update_emas
        raw = F.interpolate(img["image_raw"], size=img["image"].shape[-1], mode="bilinear")
        return super().forward(torch.cat([img["image"], raw], 1)) + 0 * c.sum(1)


def test_eg3d():
    recipe = Recipe("EG3D")
    D, c = DualCritic(), torch.randn(N, 25)
    recipe.run("after D is built, before the resume", D=D)
    optimizer = torch.optim.Adam(D.parameters(), 1e-4)
    for _ in range(INTERVAL):
        real = {"image": images(16).requires_grad_(), "image_raw": images(8).requires_grad_()}
        made = {"image": images(16), "image_raw": images(8), "image_depth": torch.rand(N, 1, 8, 8)}
        kept = dict(made)
        with same_draw(D) as draw:
            fake_logits = D(made, c, update_emas=True)
        assert all(made[key] is kept[key] for key in kept)  # the caller's dictionary
        assert D.camera is c
        assert D.got["image_depth"] is made["image_depth"]
        assert all(changed(D.got[key], made[key]).all() for key in ("image", "image_raw"))
        big, small = (params.augment[0] for params in draw.calls[0].params)
        assert torch.equal(big.contrast, small.contrast)
        assert ((big.shift - 2 * small.shift).abs() <= 2).all()
        real_logits = D(real, c)
        slopes = torch.autograd.grad(real_logits.sum(), list(real.values()), create_graph=True)
        assert all(slope.any() for slope in slopes)
        penalty = sum(slope.square().sum((1, 2, 3)) for slope in slopes)
        optimizer.zero_grad()
        (F.softplus(-real_logits) + F.softplus(fake_logits) + penalty).mean().backward()
        assert has_gradients(D)
        optimizer.step()
        recipe.run("in D's step on reals", real_logits=real_logits)
        recipe.run("once in an iteration", batch_size=2 * N, num_gpus=2)
    assert float(recipe.names["adapt"].r_d) == 1.0


def test_eg3d_whose_first_layer_runs_in_half_precision():
    class HalfConv(ScaledConv):
        def forward(self, x):
            return F.conv2d(x.bfloat16(), self.weight.bfloat16(), **self.settings)

    class Blocks(DualCritic):
        def features(self, x):
            h = self.first(x)
            assert h.dtype == torch.bfloat16  # as blocks of such a D assert at their end
            return h.float()

    recipe = Recipe("EG3D")
    D = Blocks(first=HalfConv)
    recipe.run("after D is built, before the resume", D=D)
    D({"image": images(16), "image_raw": images(8)}, torch.randn(N, 25)).sum().backward()
    assert has_gradients(D)


class PairCritic(nn.Module):
    """Is told the step of the chain that its caller is at."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.first = nn.Conv2d(6, 8, 3)

    def forward(self, x: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
        self.saw = x, t, x_t
        h = self.first(torch.cat([x, x_t], 1)) + self.embed(t.float()[:, None])[..., None, None]
        return F.leaky_relu(h, 0.2).mean((1, 2, 3)) + 5


def test_denoising_diffusion_gan():
    t = torch.randint(0, 4, (N,))
    recipe = Recipe("Denoising Diffusion GAN")
    D = PairCritic()
    recipe.run("after netD is built, with augmentation: both images of a pair", netD=D)
    x = images()
    D(x, t, x.clone())
    assert changed(D.saw[0], x).all()
    assert torch.equal(D.saw[0], D.saw[2])  # moved together
    assert D.saw[1] is t

    D = PairCritic()
    recipe.run("or with noise, which is for x alone", netD=D)
    adapt = recipe.names["adapt"]
    adapt.noise.set_p(1.0)
    optimizer = torch.optim.Adam(D.parameters(), 1e-4)
    for _ in range(INTERVAL):
        x_t, noisy = images(), 0
        for kind in ("real", "fake"):
            x = images().requires_grad_()
            verdict = D(x, t, x_t)
            noisy += int(changed(D.saw[0], x).sum())
            assert D.saw[1] is t
            assert D.saw[2] is x_t
            (slope,) = torch.autograd.grad(verdict.sum(), x, create_graph=True)
            optimizer.zero_grad()
            (F.softplus(-verdict if kind == "real" else verdict) + slope.square().sum((1, 2, 3))).mean().backward()
            optimizer.step()
            if kind == "real":
                D_real = verdict
        assert 0 < noisy < 2 * N
        recipe.run("in D's step, with noise", D_real=D_real, real_data=x)
    assert float(adapt.r_d) == 1.0


class Module(nn.Module):
    """G, D and the controller in one, as a LightningModule holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.G = Painter()
        self.recipe = Recipe("Lightning")
        self.recipe.run("in __init__", self=self, D=Critic())
        self.optimizers = torch.optim.Adam(self.G.parameters()), torch.optim.Adam(self.D.parameters(), 1e-4)

    def training_step(self, real: Tensor) -> None:
        G_optimizer, D_optimizer = self.optimizers
        fake = self.G(torch.randn(len(real), 4))
        real_logits, fake_logits = self.D(real), self.D(fake.detach())
        assert changed(self.D.saw, fake).all()
        D_optimizer.zero_grad()
        (F.softplus(-real_logits) + F.softplus(fake_logits)).mean().backward()
        D_optimizer.step()
        self.recipe.run("in training_step, after D's optimiser", self=self, real_logits=real_logits, real=real)
        G_optimizer.zero_grad()
        F.softplus(-self.D(fake)).mean().backward()
        G_optimizer.step()


def test_lightning():
    module = Module()
    assert module.automatic_optimization is False
    for _ in range(INTERVAL):
        module.training_step(images())
    assert float(module.adapt.r_d) == 1.0
    assert not list(module.adapt.parameters())
    checkpoint = from_disk({"state_dict": module.state_dict()})
    again = Module()
    again.load_state_dict(checkpoint["state_dict"], strict=True)
    assert_same_state(module.adapt, again.adapt)
    assert again.adapt.noise is regularizer_of(again.D).noise  # what moves is what D sees

    old = {key: value for key, value in module.state_dict().items() if "adapt." not in key and "scale_shift" not in key}
    missing, unexpected = Module().load_state_dict(old, strict=False)
    assert not unexpected
    assert all(key.startswith("adapt.") or "scale_shift" in key for key in missing)


class LabelledCritic(ProjectionCritic):
    """Returns its verdict alone, with classes, or in a dictionary."""

    def __init__(self, returns: str = "verdict") -> None:
        super().__init__()
        self.returns = returns

    def forward(self, x: Tensor, y: Tensor) -> Any:
        self.labels = y
        verdict = super().forward(x, y) if y.dim() == 1 and not y.is_floating_point() else Critic.forward(self, x)
        classes = torch.full((len(x), 30), -1.0)  # many, and all of the other sign
        return {
            "verdict": verdict,
            "tuple": (verdict, classes),
            "dictionary": {"adv_output": verdict, "cls_output": classes},
        }[self.returns]


WHERE_OBSERVED = {
    "verdict": "D returns its verdict: projection",
    "tuple": "D returns a tuple of verdict and classes: AC-GAN",
    "dictionary": "D returns a dictionary",
}


@pytest.mark.parametrize("returns", WHERE_OBSERVED)
def test_conditional_gans(returns):
    recipe = Recipe("Conditional GANs")
    D = LabelledCritic(returns)
    recipe.run("D(image, label), with any label that is no image", D=D)
    for _ in range(INTERVAL):
        x, y = images(), torch.randint(0, 3, (N,))
        recipe.run(WHERE_OBSERVED[returns], real=x, y=y)
        assert changed(D.saw, x).all()
        recipe.names["adapt"].step(N)
    assert float(recipe.names["adapt"].r_d) == 1.0
    for label in (y, F.one_hot(y, 3).float(), torch.randn(N, 16)):
        D(x, label)
        assert D.labels is label
    with pytest.raises(ValueError, match="inputs='x'"):
        D(x, torch.zeros(N, 3, 16, 16))
    wrap(unwrap(D), DiffAugment("translation,cutout"), inputs="x")
    D(x, label := torch.zeros(N, 3, 16, 16))
    assert D.labels is label


class TwoHeadedCritic(Critic):
    """Gives reals the smaller values; paints what it saw."""

    def __init__(self) -> None:
        super().__init__(verdict=-5.0)
        self.small = nn.Linear(8, 1)
        self.paint = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor, calc_aux_loss: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        small = self.small(self.first(F.interpolate(x, size=8)).mean((2, 3))) - 5
        features = self.features(x)
        aux = (self.paint(features) - F.interpolate(x, size=8)).square().mean() if calc_aux_loss else None
        return self.last(features.mean((2, 3))), small, aux


def he_weights(layer: nn.Module) -> None:
    if type(layer) in {nn.Conv2d, nn.Linear}:
        nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in", nonlinearity="leaky_relu")


class SmallGAN(nn.Module):
    """Holds D twice, and is saved as a whole."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.D = TwoHeadedCritic()
        self.D_opt = torch.optim.Adam(self.D.parameters(), 1e-4)
        self.apply(he_weights)
        for head in (self.D.last, self.D.small):
            nn.init.zeros_(head.weight)
        recipe.run("in LightweightGAN.__init__, after self.apply(self._init_weights)", self=self)
        self.D_aug = nn.Sequential(self.D)


def test_lightweight_gan():
    recipe = Recipe("lightweight-gan")
    GAN = SmallGAN(recipe)
    assert not GAN.D.first.scale_shift.modulate_weight.any()
    trainer = nn.Module()
    trainer.GAN = GAN
    for _ in range(INTERVAL):
        real, fake = torch.rand(N, 3, 16, 16).requires_grad_(), torch.rand(N, 3, 16, 16).requires_grad_()
        fake_output, fake_output_32x32, _ = GAN.D_aug(fake)
        assert changed(GAN.D.saw, fake).all()
        real_output, real_output_32x32, aux = GAN.D(real, calc_aux_loss=True)
        assert changed(GAN.D.saw, real).all()
        reals, fakes = [real_output, real_output_32x32], [fake_output, fake_output_32x32]
        loss = sum((F.relu(1 + r) + F.relu(1 - f)).mean() for r, f in zip(reals, fakes, strict=True)) + aux
        for outputs, inputs in ((reals, real), (fakes, fake)):
            (slope,) = torch.autograd.grad(outputs, inputs, [torch.ones_like(o) for o in outputs], create_graph=True)
            loss = loss + slope.square().sum((1, 2, 3)).mean()
        GAN.D_opt.zero_grad()
        loss.backward()
        GAN.D_opt.step()
        names = {"real_output": real_output, "real_output_32x32": real_output_32x32, "image_batch": real}
        recipe.run("in the trainer, after D's step", self=trainer, **names)
    assert float(GAN.adapt.r_d) == 1.0  # all reals are negative
    assert GAN.D.first.scale_shift.modulate_weight.any()
    again = SmallGAN(Recipe("lightweight-gan"))
    again.load_state_dict(from_disk(GAN.state_dict()), strict=True)
    assert_same_state(GAN.adapt, again.adapt)

    regularizer_of(GAN.D).noise.enabled = False
    GAN.D(real)
    saw = GAN.D.saw.detach()
    assert (saw == 0.5).flatten(1).any(1).all()  # what is cut is grey, not black
    assert float((saw - 0.5).abs().mean()) < 0.4  # half of what images in [-1, 1] get


class MethodCritic(nn.Module):
    """Several scales, trained by methods that compute the loss."""

    def __init__(self, recipe: Recipe | None) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 1, 1)) for _ in range(2))
        for scale in self.scales:
            nn.init.uniform_(scale[1].weight, -0.05, 0.05)
            nn.init.constant_(scale[1].bias, LOW)
        self.recipe, self.saw = recipe, []

    def forward(self, x: Tensor) -> list[Tensor]:
        self.saw.append(x)
        return [scale(F.avg_pool2d(x, i + 1)) for i, scale in enumerate(self.scales)]

    def calc_dis_loss(self, input_fake: Tensor, input_real: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.recipe is None:
            outs0, outs1 = self.forward(input_fake), self.forward(input_real)
        else:
            names = self.recipe.run("in D's calc_dis_loss", self=self, input_fake=input_fake, input_real=input_real)
            outs0, outs1 = names["outs0"], names["outs1"]
        return sum(a.square().mean() + (b - 1).square().mean() for a, b in zip(outs0, outs1, strict=True)), outs1


def test_munit_and_other_d_with_methods_of_their_own():
    recipe = Recipe("MUNIT, and other D with methods of their own")
    trainer = nn.Module()
    trainer.dis_a = D = MethodCritic(recipe)
    recipe.run("before the optimiser", self=trainer)
    optimizer = torch.optim.Adam(D.parameters(), 1e-4)
    for _ in range(INTERVAL):
        x_a, x_ba = images(), images()
        D.saw.clear()
        loss, outs1 = D.calc_dis_loss(x_ba, x_a)
        assert all(changed(saw, x).all() for saw, x in zip(D.saw, (x_ba, x_a), strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recipe.run("where D's loss is computed: the method hands outs1 on", self=trainer, outs1=outs1, x_a=x_a)
    assert float(trainer.adapt_a.r_d) == -1.0

    forgotten = wrap(MethodCritic(None), DiffAugment())
    with pytest.warns(WrapWarning, match="runs past its regularizer"):
        forgotten.calc_dis_loss(x_ba, x_a)
    assert torch.equal(forgotten.saw[0], x_ba)
