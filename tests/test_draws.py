"""What is drawn is drawn anew at every call, and all of it independently; and what D is told is what was done."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gan_regularizers import DiffAugment, DiffusionNoise, InputRegularizer, use_backend, wrap
from gan_regularizers.diffusion_noise import NoiseParams
from gan_regularizers.hooks import scale_shift
from gan_regularizers.ops import TransformParams
from gan_regularizers.regularizer import RegularizerParams

N = 2**13
CELLS = 8
Columns = dict[str, Tensor]


@pytest.fixture(params=["native", "reference"], autouse=True)
def _backend(request):
    with use_backend(request.param):
        yield


def of_pass(name: str, params: TransformParams) -> Columns:
    """One column for each number that is drawn; a box's other ends follow from its first ones."""
    down, right = params.shift.unbind(1)
    top, _, left, _ = params.cutout.unbind(1)
    columns = {"brightness": params.brightness, "saturation": params.saturation, "contrast": params.contrast}
    columns |= {"down": down, "right": right, "top": top, "left": left}
    return {f"{name} {key}": column for key, column in columns.items()}


def of_noise(params: NoiseParams) -> Columns:
    """The step; the seed by its lowest, middle and highest bits; the noise of the first elements, unscaled.

    The lowest bits of a channel's seed are those that chose its step.
    """
    t = params.t.flatten(1).T if params.t.dim() > 1 else params.t[None]
    columns = {f"t {c}": column for c, column in enumerate(t)}
    if params.normals is not None:
        return columns | {f"noise {i}": column for i, column in enumerate(params.normals.flatten(1)[:, ::97].T)}
    seed = params.seed.view(N, -1).T
    per_channel = params.seed.dim() > 1
    lowest = 6 if per_channel else 0
    columns |= {f"seed {c} {bit}": seed[c] >> bit & 63 for c in range(len(seed)) for bit in (lowest, 29, 58)}
    unscaled = NoiseParams(None, params.gain, torch.ones_like(params.noise_std), params.seed)
    x = torch.zeros(*params.seed.shape, 4) if per_channel else torch.zeros(N, 8)
    noise = DiffusionNoise(per_channel=per_channel)(x, params=unscaled).flatten(1)
    return columns | {f"noise {i}": column for i, column in enumerate(noise.T)}


def of_draw(params: RegularizerParams) -> Columns:
    """All that a regularizer drew."""
    columns = of_noise(params.noise)
    for i, part in enumerate(params.parts):
        for j, one in enumerate(() if isinstance(part, NoiseParams) else part):
            columns |= of_pass(f"{i} {j}", one)
    return columns


def in_cells(column: Tensor) -> np.ndarray:
    """One-hot [N, CELLS]: values, or where there are many, ranges that are equally full."""
    values, cell = np.unique(column.numpy(), return_inverse=True)
    if len(values) > CELLS:
        cell = np.searchsorted(np.quantile(cell, np.arange(1, CELLS) / CELLS), cell, side="right")
    return np.eye(CELLS)[cell]


def assert_independent(first: Columns, second: Columns) -> None:
    """Pearson's chi-square test of every pair of columns, but of none with itself."""
    one_hot = [np.concatenate([in_cells(column) for column in columns.values()], 1) for columns in (first, second)]
    counts = (one_hot[0].T @ one_hot[1]).reshape(len(first), CELLS, len(second), CELLS).transpose(0, 2, 1, 3)
    rows, columns = counts.sum(3, keepdims=True), counts.sum(2, keepdims=True)
    expected = rows * columns / N
    statistic = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum((2, 3))
    freedom = ((rows > 0).sum((2, 3)) - 1) * ((columns > 0).sum((2, 3)) - 1)
    assert freedom.min() > 0  # every column varies
    p_values = stats.chi2.sf(statistic, freedom)
    if first is second:
        np.fill_diagonal(p_values, 1.0)
    assert [(list(first)[i], list(second)[j]) for i, j in np.argwhere(p_values < 1e-8)] == []


AUGMENT = "color,translation,cutout,color,translation,cutout"


@pytest.mark.parametrize(
    ("per_channel", "generator"),
    [(False, None), (True, torch.Generator().manual_seed(3))],
    ids=["plain", "per channel"],
)
def test_all_that_is_drawn_is_independent(per_channel, generator):
    """Parts, axes, passes, steps, seeds and noise: within a sample, from one to the next, and from call to call."""
    noise = DiffusionNoise(clean_share=0.0, per_channel=per_channel)
    regularizer = InputRegularizer(DiffAugment(AUGMENT), DiffAugment(AUGMENT), noise)
    x = torch.zeros(()).expand(N, 2, 16, 24)

    now, later = (of_draw(regularizer.sample(x, generator=generator)) for _ in range(2))
    assert_independent(now, now)
    assert_independent(now, later)
    assert_independent(now, {name: column.roll(1) for name, column in now.items()})


def test_whether_a_sample_is_touched_is_independent_of_its_noise():
    regularizer = InputRegularizer(DiffAugment(p=0.5), DiffAugment("color", p=0.5), DiffusionNoise(clean_share=0.0))
    x = torch.zeros(()).expand(N, 3, 16, 24)

    def columns() -> Columns:
        params = regularizer.sample(x)
        touched = {f"touched {i}": params.parts[i][0].saturation != 1.0 for i in range(2)}
        return touched | of_noise(params.noise)

    now, later = columns(), columns()
    assert_independent(now, now)
    assert_independent(now, later)


def test_no_two_samples_of_a_batch_share_a_draw():
    params = InputRegularizer(DiffAugment(), DiffusionNoise()).sample(torch.zeros(()).expand(N, 3, 16, 24))
    drawn = params.noise.seed[:, None] if params.noise.normals is None else params.noise.normals[:, 0, 0, :4]
    assert len(drawn.unique(dim=0)) == N
    colours = torch.stack(params.augment[0][:3], 1)
    assert len(colours.unique(dim=0)) == N


@pytest.mark.usefixtures("seeds_everywhere")
def test_all_bits_of_a_seed_are_drawn():
    seed = DiffusionNoise().sample(torch.zeros(N, 1)).seed
    bits = (seed[:, None] >> torch.arange(64) & 1).double()
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 / N**0.5
    assert (torch.corrcoef(bits.T) - torch.eye(64)).abs().max() < 5.5 / N**0.5


class Mirror(nn.Module):
    """A D that shows what it was given."""

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, t


@pytest.mark.parametrize("compiled", [False, True])
def test_calls_of_a_discriminator_are_independent(compiled):
    """Reals, fakes and the next step's reals, as D sees them."""
    noise = DiffusionNoise(clean_share=0.0)
    D = wrap(Mirror(), DiffAugment("color", saturation=(1, 1), contrast=(1, 1)), noise)
    run = torch.compile(D, backend="aot_eager") if compiled else D

    def columns() -> Columns:
        y, t = run(torch.zeros(N, 1, 1, 4))
        # Noise scaled by t rides on a brightness that is one for the whole sample.
        mean = y.mean((1, 2, 3))
        rest = ((y.flatten(1) - mean[:, None]) / noise.noise_scale[t][:, None])[:, :3]
        return {"t": t, "brightness": mean / noise.gain[t].clamp(min=0.2), **dict(zip("012", rest.T, strict=True))}

    reals, fakes, next_reals = columns(), columns(), columns()
    assert_independent(reals, fakes)
    assert_independent(fakes, next_reals)
    assert_independent(reals, next_reals)


def telling_noise(**settings) -> DiffusionNoise:
    """Its images tell t: a gain for every step, and no noise."""
    return DiffusionNoise(8, noise_std=0.0, beta_start=0.1, beta_end=0.5, **settings)


def assert_diffused(noise: DiffusionNoise, y: Tensor, t: Tensor) -> None:
    """Images of ones came out as this t makes them, and t is no constant."""
    assert len(noise.gain.unique()) == 9
    assert len(t.unique()) > 4
    assert torch.equal(y, noise.gain[t].view(*t.shape, *(1,) * (y.dim() - t.dim())).expand_as(y))


X = torch.ones(64, 3, 4, 4)


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_step_that_is_returned_is_the_one_that_was_taken(per_channel):
    noise = telling_noise(per_channel=per_channel)
    for module in (
        noise,
        InputRegularizer(DiffAugment("translation", translation=0.0), noise),
        InputRegularizer(noise),
    ):
        assert_diffused(noise, *module(X, return_t=True))
    params = noise.sample(X)
    assert torch.equal(params.gain, noise.gain[params.t])


def test_the_scale_of_the_noise_is_that_of_the_step():
    noise = DiffusionNoise(8, beta_start=0.1, beta_end=0.5)
    params = noise.sample(X)
    assert len(params.t.unique()) > 4
    assert torch.equal(params.noise_std, noise.noise_scale[params.t])


@pytest.mark.parametrize("compiled", [False, True])
def test_the_step_that_a_discriminator_is_told_is_the_one_that_was_taken(compiled):
    noise = telling_noise()
    D = wrap(Mirror(), noise)
    assert_diffused(noise, *(torch.compile(D, backend="aot_eager") if compiled else D)(X))


def test_the_step_that_a_layer_is_told_is_the_one_that_was_taken(monkeypatch):
    told, embed = [], scale_shift.timestep_embedding
    monkeypatch.setattr(scale_shift, "timestep_embedding", lambda t, *args: told.append(t) or embed(t, *args))

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.x = x
            return self.layer(x).sum((1, 2, 3))

    noise = telling_noise()
    D = wrap(Critic(), noise, tell="scale-shift")
    D(X)
    assert_diffused(noise, D.x, told[0])
