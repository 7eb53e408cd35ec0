"""DiffusionNoise: schedules, the list of steps, the mixture that comes out, and the module's state."""

import copy
import io
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_regularizers import DiffusionNoise, diffusion_noise, timestep_embedding
from gan_regularizers.diffusion_noise import PRESETS, SCHEDULES

WORDS = torch.zeros(2, 3, dtype=torch.int64)  # of a draw


def beta(schedule: str, s: int, T: int, start: float, end: float) -> float:
    """beta_s of a schedule over 1..T, T > 1."""
    share = (s - 1) / (T - 1)
    match schedule:
        case "linear":
            return start + (end - start) * share
        case "quadratic":
            return (start**0.5 + (end**0.5 - start**0.5) * share) ** 2
        case "sigmoid":
            return start + (end - start) / (1 + math.exp(6 - 12 * share))
        case "constant":
            return end
        case "jsd":
            return 1 / (T - s + 1)
        case "cosine":
            return min(0.999, 1 - cosine_level(s, T) / cosine_level(s - 1, T))
    raise ValueError(schedule)


def cosine_level(s: int, T: int) -> float:
    return math.cos((s / T + 0.008) / 1.008 * math.pi / 2) ** 2


def alpha_bar(schedule: str, steps: int, T: int, start: float, end: float) -> list[float]:
    """The product of the first ``steps`` factors 1 - beta of a schedule over 1..T, one more with each entry."""
    levels = [1.0]
    for s in range(1, steps + 1):
        levels.append(levels[-1] * (1 - beta(schedule, s, T, start, end)))
    return levels


def at_length(T: int, t_max: int = 100, **settings) -> DiffusionNoise:
    noise = DiffusionNoise(t_max, t_min=0, **settings)
    noise.set_p(T / t_max)
    assert int(noise.T) == T
    return noise


@pytest.mark.parametrize("T", [2, 7, 40])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules(schedule, T):
    """Official parity stretches the schedule over T; the paper's takes the prefix of one schedule over t_max."""
    for parity, length in (("official", T), ("paper", 40)):
        noise = at_length(T, 40, schedule=schedule, beta_start=1e-3, beta_end=0.1, parity=parity)
        levels = alpha_bar(schedule, T, length, 1e-3, 0.1)
        levels += [levels[-1]] * (40 - T)
        np.testing.assert_allclose(noise.alpha_bar(), levels, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(noise.gain, np.sqrt(levels), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(noise.noise_scale, 0.05 * np.sqrt(1 - np.array(levels)), rtol=1e-6)


@pytest.mark.parametrize(
    ("T", "noise_std", "gain"), [(10, 0.016, 0.95), (100, 0.040, 0.60), (500, 0.050, 0.080), (1000, 0.050, 0.0064)]
)
def test_published_noise_at_the_end_of_the_chain(T, noise_std, gain):
    noise = at_length(T, 1000)
    assert round(float(noise.noise_scale[T]), 3) == noise_std
    assert float(f"{float(noise.gain[T]):.2g}") == gain


def test_a_chain_of_one_step():
    """All of a cosine, so that nearly nothing of x is left."""
    noise = DiffusionNoise(1, schedule="cosine", clean_share=0.0)
    np.testing.assert_allclose(noise.alpha_bar(), [1.0, 0.001], rtol=1e-12)
    assert noise.active
    assert torch.equal(noise(torch.zeros(5, 1), return_t=True)[1], torch.ones(5, dtype=torch.int64))


@pytest.mark.parametrize("parity", ["official", "paper"])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("T", [0, 1])
def test_shortest_chains(T, schedule, parity):
    noise = at_length(T, 3, schedule=schedule, parity=parity)
    levels = noise.alpha_bar()
    assert levels[0] == 1
    assert (levels[T:] == levels[T]).all()
    assert np.isfinite(levels).all()
    assert (noise.t_list == 0).sum() == (64 if T == 0 else 32)
    assert noise.t_list.max() == T


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"distribution": "uniform"}, [0.25, 0.25, 0.25, 0.25]),
        ({"distribution": "priority"}, [0, 1 / 6, 2 / 6, 3 / 6]),
        ({"distribution": "priority", "parity": "paper"}, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_list_follows_the_weights(settings, weights):
    """Pearson's statistic of 32 entries of each of 1000 lists."""
    noise = DiffusionNoise(4, **settings)
    np.testing.assert_allclose(noise.t_weights(), weights)
    lists = torch.stack([DiffusionNoise(4, seed=seed, **settings).t_list for seed in range(1000)])
    assert ((lists == 0).sum(1) == 32).all()
    counts = torch.bincount(lists[lists > 0], minlength=5)[1:].numpy()
    expected = 32_000 * np.array(weights)
    assert (counts[expected == 0] == 0).all()
    statistic = sum((counts[expected > 0] - expected[expected > 0]) ** 2 / expected[expected > 0])
    freedom = (expected > 0).sum() - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("clean_share", "p", "clean"),
    [(0.5, 1.0, 32), (0.5, 0.0, 32), (0.0, 1.0, 0), (1.0, 1.0, 64), (0.25, 1.0, 16)]
    + [("adaptive", p, clean) for p, clean in ((0.0, 64), (0.1, 58), (0.5, 32), (0.75, 16), (1.0, 16))],
)
def test_clean_share(clean_share, p, clean):
    noise = DiffusionNoise(100, clean_share=clean_share)
    noise.set_p(p)
    assert int((noise.t_list == 0).sum()) == clean


def test_samples_are_drawn_from_the_list_evenly():
    noise, n = DiffusionNoise(500), 64 * 2000
    t = noise.sample(torch.zeros(()).expand(n, 3)).t
    values, expected = noise.t_list.unique(return_counts=True)
    counts = (t[:, None] == values).sum(0)
    assert counts.sum() == n
    statistic = ((counts - expected * 2000) ** 2 / (expected * 2000.0)).sum()
    assert abs(float(statistic) - (len(values) - 1)) < 4 * math.sqrt(2 * len(values))


def test_moments_at_one_step():
    noise, x = DiffusionNoise(100, noise_std=0.5), torch.tensor([-1.0, 0.25, 2.0]).expand(200_000, 3)
    y = noise(x, t=60).double()
    level = float(noise.alpha_bar()[60])
    std = 0.5 * math.sqrt(1 - level)
    assert ((y.mean(0) - math.sqrt(level) * x[0]).abs() < 4 * std / math.sqrt(len(x))).all()
    assert ((y.var(0) / std**2 - 1).abs() < 4 * math.sqrt(2 / len(x))).all()
    assert (torch.corrcoef(y.T) - torch.eye(3)).abs().max() < 4 / math.sqrt(len(x))


def test_moments_of_the_mixture():
    """E y = E[gain] x and Var y = Var[gain] x^2 + E[std^2], over the list of steps."""
    noise, n, value = DiffusionNoise(100, noise_std=0.5), 400_000, 0.7
    y = noise(torch.full((n, 1), value)).double()
    gain, std = noise.gain[noise.t_list].double(), noise.noise_scale[noise.t_list].double()
    variance = gain.var(correction=0) * value**2 + std.square().mean()
    assert abs(float(y.mean() - gain.mean() * value)) < 4 * math.sqrt(variance / n)
    assert abs(float(y.var() / variance) - 1) < 4 * math.sqrt(3 / n)


@pytest.mark.usefixtures("seeds_everywhere")
@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 3, 5), (6, 3, 5, 4), (6, 3, 2, 5, 4), (0, 3, 4, 4), (0, 7)])
def test_any_rank(shape):
    noise, x = DiffusionNoise(100), torch.randn(shape)
    y, t = noise(x, return_t=True)
    assert (y.shape, y.dtype, t.shape, t.dtype) == (x.shape, x.dtype, shape[:1], torch.int64)
    params = noise.sample(x)
    assert torch.equal(noise(x, params=params), noise(x, params=params))
    # The noise depends on the logical index alone, so it is that of the flattened sample.
    flat = x.reshape(shape[0], math.prod(shape[1:]))
    assert torch.equal(noise(x, params=params), noise(flat, params=params).view(shape))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 5, 3), (4, 6, 5, 3, 2)])
def test_per_channel(shape):
    noise, x = DiffusionNoise(100, per_channel=True), torch.randn(shape, dtype=torch.float64)
    y, t = noise(x, return_t=True)
    assert y.shape == x.shape
    assert t.shape == (4, 6)
    assert all(len(row.unique()) > 1 for row in t)
    changed = (y != x).flatten(2).any(2) if x.dim() > 2 else y != x
    assert torch.equal(changed, t > 0)
    params = noise.sample(x)
    flat = x.reshape(24, -1)
    *of_rows, normals = (None if part is None else part.flatten() for part in params)
    rows = DiffusionNoise(100)(
        flat, params=type(params)(*of_rows, None if normals is None else normals.view(flat.shape))
    )
    assert torch.equal(noise(x, params=params), rows.view(shape))
    given = torch.arange(24).view(4, 6)
    assert torch.equal(noise(x, given, return_t=True)[1], given)
    with pytest.raises(ValueError, match=r"x has shape \[4\]; \[N, C, ...\] needed"):
        noise(torch.zeros(4))


@pytest.mark.parametrize("per_channel", [False, True])
def test_channels_last_gets_the_same_noise(per_channel):
    noise, x = DiffusionNoise(100, per_channel=per_channel), torch.randn(3, 4, 5, 6)
    params = noise.sample(x)
    last = x.contiguous(memory_format=torch.channels_last)
    y = noise(last, params=params)
    assert y.stride() == last.stride()
    assert torch.equal(y, noise(x, params=params))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("replays", [False, True])
def test_no_layout_is_copied(per_channel, replays, monkeypatch):
    """The operator has feature maps as they lie in memory."""
    noise, x, seen = DiffusionNoise(100, per_channel=per_channel), torch.randn(3, 4, 5, 6), []

    def given(images, _params):
        seen.append(images)
        return images.clone()

    def drawn(images, *_):
        return given(images, None), None

    monkeypatch.setattr(diffusion_noise, "input_transform", given)
    monkeypatch.setattr(diffusion_noise, "drawn_transform", drawn)
    for layout in (torch.contiguous_format, torch.channels_last):
        in_layout = x.contiguous(memory_format=layout)
        noise(in_layout, params=noise.sample(x) if replays else None)
        assert seen[-1].data_ptr() == in_layout.data_ptr()
        assert seen[-1].stride() == in_layout.stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_clean_samples_are_bit_equal(dtype):
    noise, x = DiffusionNoise(100), torch.randn(64, 3, 4, 4).to(dtype)
    y, t = noise(x, return_t=True)
    assert y.dtype == dtype
    assert 0 < int((t == 0).sum()) < 64
    assert torch.equal(y[t == 0], x[t == 0])
    assert (y[t > 0] != x[t > 0]).flatten(1).any(1).all()


def test_given_steps():
    noise, x = at_length(40), torch.randn(3, 8)
    for t in (7, torch.tensor(7), torch.tensor([7, 7, 7]), torch.tensor([7, 7, 7], dtype=torch.int32)):
        y, told = noise(x, t, return_t=True, generator=torch.Generator().manual_seed(1))
        assert torch.equal(told, torch.tensor([7, 7, 7]))
        assert torch.equal(y, noise(x, 7, generator=torch.Generator().manual_seed(1)))
    params = noise.sample(x, torch.tensor([0, 40, 90]))
    assert torch.equal(params.gain, noise.gain[[0, 40, 40]])
    assert torch.equal(params.noise_std, noise.noise_scale[[0, 40, 40]])


@pytest.mark.parametrize("level", [0.25, torch.tensor(0.25), torch.tensor([0.25, 0.25, 0.25], dtype=torch.float64)])
def test_given_alpha_bar(level):
    noise, x = DiffusionNoise(100, noise_std=0.2), torch.randn(3, 8)
    params = noise.sample(x, alpha_bar=level)
    torch.testing.assert_close(params.gain, torch.full((3,), 0.5))
    torch.testing.assert_close(params.noise_std, torch.full((3,), 0.2 * math.sqrt(0.75)))
    y, t = noise(x, alpha_bar=level, return_t=True)
    assert t is None
    assert y.shape == x.shape


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        *(("t", t, ValueError) for t in (-1, 101, 1.5, float("nan"), torch.tensor([0, 101, 3]), torch.tensor(-1))),
        ("t", torch.tensor([1, 2]), ValueError),
        ("t", torch.tensor([1.0, 2.0, 3.0]), TypeError),
        ("t", "seven", TypeError),
        ("t", torch.tensor([1.0, 2.0, 3.0]).requires_grad_(), ValueError),
        *(("alpha_bar", level, ValueError) for level in (-0.1, 1.1, float("nan"), torch.tensor([0.0, 1.0, math.nan]))),
        ("alpha_bar", torch.tensor([[0.5]]), ValueError),
        ("alpha_bar", torch.tensor(0.5).requires_grad_(), ValueError),
    ],
)
def test_levels_outside_their_range(argument, value, error):
    with pytest.raises(error, match=rf"\b{argument}\b"):
        DiffusionNoise(100)(torch.zeros(3, 4), **{argument: value})


def test_tables_follow_the_input_to_its_device():
    noise, x = DiffusionNoise(100), torch.zeros(2, 3, 4, 4)
    assert all(buffer.is_meta for buffer in DiffusionNoise(100).to("meta").buffers())  # the state moves when told to
    assert noise(x.to("meta")).is_meta
    noise.set_p(0.5)
    assert noise(x.to("meta"), return_t=True)[1].is_meta
    assert noise(x).device.type == noise.p.device.type == "cpu"


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("shape", "of"), [((6, 4), (3, 4)), ((2, 6, 4, 4), (3, 4, 4, 4)), ((4, 3, 4, 4), (2, 6, 2, 2))]
)
def test_params_of_another_batch(shape, of, per_channel):
    noise = DiffusionNoise(100, per_channel=per_channel)
    params = noise.sample(torch.zeros(of))
    needed = re.escape(str(list(shape[: 1 + per_channel])))
    with pytest.raises(
        ValueError, match=rf"params\.t has shape .*; this input needs {needed}: params are drawn by sample"
    ):
        noise(torch.zeros(shape), params=params)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (0, 255), (-3.0, 1.0)])
@pytest.mark.parametrize("settings", [{}, {"per_channel": True}, {"alpha_bar": 0.3}])
@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (6, 3, 7), (6, 3)])
def test_the_same_picture_in_another_range(shape, settings, value_range):
    """Scaled towards the middle of its range, with noise in proportion."""
    alpha_bar, low, high = settings.pop("alpha_bar", None), *value_range
    settings = {"noise_std": 0.5, "clean_share": 0.0, **settings}
    noise, other = DiffusionNoise(100, **settings), DiffusionNoise(100, **settings, value_range=value_range)
    x = torch.rand(shape, dtype=torch.float64) * 2 - 1

    def there(x):
        return (x + 1) / 2 * (high - low) + low

    expected, y = (
        module(z, alpha_bar=alpha_bar, generator=torch.Generator().manual_seed(2))
        for module, z in ((noise, x), (other, there(x)))
    )
    torch.testing.assert_close(y, there(expected), rtol=1e-5, atol=1e-5 * (high - low))
    assert not torch.allclose(y, there(x), atol=1e-2 * (high - low))


@pytest.mark.parametrize("shape", [(6, 4, 5, 4), (6, 4, 7), (6, 4), (6, 4, 2, 3, 2)])
@pytest.mark.parametrize("channels", [slice(0, 3), slice(-3, None), range(1, 2), slice(None)])
def test_the_picture_within_the_channels(shape, channels):
    """Alpha, or a condition, stays as it is; the picture is diffused as without."""
    noise, whole = DiffusionNoise(100, noise_std=0.5, channels=channels), DiffusionNoise(100, noise_std=0.5)
    x, picture = torch.randn(shape), range(4)[channels] if isinstance(channels, slice) else channels
    params = noise.sample(x)
    y, expected = noise(x, params=params), whole(x, params=params)
    for channel in range(4):
        wanted = expected if channel in picture else x
        torch.testing.assert_close(y[:, channel], wanted[:, channel], rtol=1e-6, atol=1e-6)
    x = x[..., :2].double().requires_grad_()
    params = noise.sample(x)
    assert torch.autograd.gradgradcheck(lambda x: noise(x, params=params), (x,))


def test_channels_that_x_does_not_have():
    noise = DiffusionNoise(100, channels=slice(3, 6))
    with pytest.raises(ValueError, match=r"channels=slice\(3, 6, None\) selects none of the 3 channels of x"):
        noise(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"x has shape \[2\]; \[N, C, ...\] needed"):
        noise(torch.zeros(2))
    with pytest.raises(ValueError, match=r"channels=.* and per_channel are both given"):
        DiffusionNoise(100, channels=slice(3), per_channel=True)
    with pytest.raises(TypeError, match="channels='rgb' is no slice or range"):
        DiffusionNoise(100, channels="rgb")
    with pytest.raises(ValueError, match=r"value_range=\(1, 0\): low and high must be finite, and low below high"):
        DiffusionNoise(100, value_range=(1, 0))


def test_step_and_alpha_bar_exclude_each_other():
    with pytest.raises(ValueError, match="t and alpha_bar are both given"):
        DiffusionNoise(100)(torch.zeros(3, 4), 5, alpha_bar=0.5)


def test_inactive_returns_the_input_itself():
    x = torch.randn(3, 4, 5)
    off = DiffusionNoise(100)
    off.enabled = False
    for noise, shape in ((DiffusionNoise(0), (3,)), (off, (3,)), (DiffusionNoise(0, per_channel=True), (3, 4))):
        assert noise(x) is x
        y, t = noise(x, return_t=True)
        assert y is x
        assert torch.equal(t, torch.zeros(shape, dtype=torch.int64))


def test_own_generator():
    noise, x = DiffusionNoise(100), torch.randn(8, 5)
    before = torch.get_rng_state()
    first = noise(x, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(noise(x, generator=torch.Generator().manual_seed(1)), first)
    assert not torch.equal(noise(x, generator=torch.Generator().manual_seed(2)), first)


@pytest.mark.parametrize(
    ("settings", "p", "T"),
    [
        ({}, 0.0, 10),
        ({}, 0.5, 255),
        ({}, 1.0, 500),
        ({"parity": "paper"}, 0.0, 5),
        ({"t_max": 7}, 0.0, 7),
        ({"t_min": 100}, 0.25, 200),
    ],
)
def test_strength_sets_the_length(settings, p, T):
    noise = DiffusionNoise(**{"t_max": 500, **settings})
    noise.set_p(p)
    assert (float(noise.p), int(noise.T)) == (p, T)
    assert noise.t_list.max() <= T
    np.testing.assert_allclose(noise.gain, np.sqrt(noise.alpha_bar(T)), rtol=1e-6)


def test_list_is_drawn_anew_when_the_length_moves_and_only_then():
    noise = DiffusionNoise(100, t_min=0)
    lists = [noise.t_list.clone()]
    for p, moves in ((1.0, False), (0.999, False), (0.5, True), (0.501, False), (0.5, False), (1.0, True)):
        noise.set_p(p)
        assert torch.equal(noise.t_list, lists[-1]) is not moves
        assert float(noise.p) == pytest.approx(p)
        lists.append(noise.t_list.clone())
    assert int(noise.redraws) == 2
    assert not torch.equal(lists[0], lists[-1])
    gain = noise.gain.clone()
    noise.set_p(1.0, redraw=True)
    assert int(noise.redraws) == 3
    assert not torch.equal(noise.t_list, lists[-1])
    assert torch.equal(noise.gain, gain)


def test_list_is_drawn_anew_when_only_its_clean_share_moves():
    noise = DiffusionNoise(100, t_min=100, clean_share="adaptive")
    for p, redraws in ((0.25, 1), (0.25, 1), (0.5, 2)):
        noise.set_p(p)
        assert (noise.T, int(noise.redraws)) == (100, redraws)


def test_strength_is_what_its_buffer_holds():
    """float32(0.1) is above 0.1, so 5 p rounds up: whoever reads the buffer finds this T, and a list drawn for it."""
    noise = DiffusionNoise(15, t_min=10)
    noise.set_p(0.0)
    noise.set_p(0.1)
    assert (noise.T, int(noise.redraws), noise.strength) == (11, 2, float(np.float32(0.1)))


@pytest.mark.parametrize(("written", "p"), [(1.0005, 1.0), (-0.0005, 0.0)])
def test_an_average_that_misses_the_bounds_by_a_rounding(written, p):
    noise = DiffusionNoise(5000)
    noise.p.fill_(written)
    assert (noise.strength, noise.T) == (p, noise.t_max if p else noise.t_min)


def test_list_depends_on_seed_and_redraws():
    def moved(seed: int) -> torch.Tensor:
        noise = DiffusionNoise(100, seed=seed)
        noise.set_p(0.5)
        return noise.t_list

    torch.manual_seed(1)
    first = moved(3)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(moved(3), first)
    assert not torch.equal(moved(4), first)
    redrawn = DiffusionNoise(100, seed=3)
    redrawn.set_p(1.0, redraw=True)
    assert not torch.equal(DiffusionNoise(100, seed=4).t_list, redrawn.t_list)  # seed and redraws do not add up


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), "half"])
def test_strength_outside_its_range(p):
    with pytest.raises((ValueError, TypeError), match="p="):
        DiffusionNoise(100).set_p(p)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_buffers_keep_their_dtype(cast):
    parent = nn.Sequential(nn.Linear(2, 2), DiffusionNoise(500))
    before = {name: buffer.clone() for name, buffer in parent[1].named_buffers()}
    getattr(parent, cast)()
    assert parent[0].weight.dtype != torch.float32
    for name, buffer in parent[1].named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer, before[name])
    assert parent[1](torch.zeros(2, 3, dtype=parent[0].weight.dtype)).dtype == parent[0].weight.dtype


def test_state_dict_round_trip():
    noise = DiffusionNoise(100, seed=4)
    noise.set_p(0.37)
    state = noise.state_dict()
    assert set(state) == {"p", "redraws"}
    loaded = DiffusionNoise(100, seed=4)
    loaded.load_state_dict(state)
    assert loaded.T == noise.T
    for name in ("p", "redraws", "t_list", "gain", "noise_scale"):
        assert torch.equal(getattr(loaded, name), getattr(noise, name)), name
    x = torch.randn(9, 4)
    assert torch.equal(
        loaded(x, generator=torch.Generator().manual_seed(0)), noise(x, generator=torch.Generator().manual_seed(0))
    )
    noise.set_p(0.8)
    loaded.set_p(0.8)
    assert torch.equal(noise.t_list, loaded.t_list)


def test_channels_last_feature_map_stays_so():
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    noise = DiffusionNoise(per_channel=True)
    params = noise.sample(x)
    y = noise(x, params=params)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, noise(x.contiguous(), params=params))


@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
def test_a_state_that_is_none(p):
    noise, parent = DiffusionNoise(100), nn.Sequential(nn.Identity(), DiffusionNoise(100))
    with pytest.raises(RuntimeError, match=rf"1\.p is {p:g}, outside \[0, 1\]"):
        parent.load_state_dict({"1.p": torch.tensor(p), "1.redraws": torch.tensor(3)})
    assert parent[1].T == 100
    noise.p.fill_(p)
    with pytest.raises(ValueError, match=rf"p of DiffusionNoise is {p:g}, outside \[0, 1\]"):
        noise(torch.zeros(2, 3))


def test_whoever_writes_p_has_its_chain():
    """T, the list and the tables are of one moment, whatever way p and redraws were written."""
    wanted = DiffusionNoise(100)
    wanted.set_p(0.3)
    wanted.set_p(0.37, redraw=True)
    x = torch.randn(9, 4)

    def write_in_place(noise):
        noise.state_dict()["p"].copy_(wanted.p)
        noise.redraws.fill_(wanted.redraws)

    def write_past_torch(noise):  # which counts no write through .data
        noise.p.data.copy_(wanted.p)
        noise.redraws.data.copy_(wanted.redraws)

    def put_others_in_place(noise):
        noise.load_state_dict({name: value.clone() for name, value in wanted.state_dict().items()}, assign=True)

    def write_in_inference_mode(noise):
        with torch.inference_mode():
            write_in_place(noise)

    for write in (write_in_place, write_past_torch, put_others_in_place, write_in_inference_mode):
        noise = DiffusionNoise(100)
        write(noise)
        torch.manual_seed(3)
        y = noise(x)
        torch.manual_seed(3)
        assert torch.equal(y, wanted(x)), write.__name__
        assert noise.T == wanted.T == 43
        for name in ("t_list", "gain", "noise_scale"):
            noise = DiffusionNoise(100)
            write(noise)  # and nothing ran since
            assert torch.equal(getattr(noise, name), getattr(wanted, name)), name
        noise = DiffusionNoise(100)
        write(noise)
        noise.set_p(0.37)
        assert torch.equal(noise.redraws, wanted.redraws)


def test_a_chain_is_never_changed_in_place():
    """What a compiled backward pass or activation checkpointing keeps of it must stay."""
    noise = DiffusionNoise(100)
    chain = noise.chain(WORDS)
    before = [table.clone() for table in chain]
    noise.set_p(0.2)
    assert all(map(torch.equal, chain, before))
    assert not torch.equal(noise.chain(WORDS).gain, chain.gain)


class Captured:
    """torch.cuda's stand-in, while a graph is being captured on what is called CUDA here."""

    def __init__(self, monkeypatch) -> None:
        self.capturing = False
        for module in ("chain", "recomputation"):
            monkeypatch.setattr(f"gan_regularizers.state.{module}.is_captured", lambda _: self.capturing)


def test_a_captured_graph_keeps_its_tables_and_they_are_those_of_now(monkeypatch):
    """The addresses that a graph replays from; the emulation has the CPU for a device."""
    graph, noise = Captured(monkeypatch), DiffusionNoise(100)
    # So that the CPU has fixed tables too.
    monkeypatch.setattr("gan_regularizers.state.chain._COMPILES_FOR_A_TENSOR", True)
    graph.capturing = True
    with pytest.raises(RuntimeError, match="run the step once before it is captured"):
        noise.chain(WORDS)
    graph.capturing = False
    eager = noise.chain(WORDS)
    before = [table.clone() for table in eager]
    graph.capturing = True
    captured = noise.chain(WORDS)
    addresses = [table.data_ptr() for table in captured]
    graph.capturing = False
    noise.set_p(0.2)
    assert all(map(torch.equal, captured, noise.chain(WORDS)))
    assert not torch.equal(captured.gain, before[1])
    assert addresses == [table.data_ptr() for table in captured]
    assert all(map(torch.equal, eager, before))  # as a draw of eager mode keeps it


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "torch.save"])
def test_copies(how):
    noise = DiffusionNoise(100, distribution="priority")
    noise.set_p(0.4)
    if how == "pickle":
        copied = pickle.loads(pickle.dumps(noise))
    elif how == "deepcopy":
        copied = copy.deepcopy(noise)
    else:
        file = io.BytesIO()
        torch.save(noise, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    before = noise.t_list.clone()
    copied.set_p(0.6)
    assert torch.equal(noise.t_list, before)
    noise.set_p(0.6)
    assert torch.equal(noise.t_list, copied.t_list)
    assert torch.equal(noise.gain, copied.gain)


def test_autocast_changes_nothing():
    noise, x = DiffusionNoise(100), torch.randn(8, 3, 4, 4)
    params = noise.sample(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = noise(x, params=params)
    assert torch.equal(y, noise(x, params=params))
    assert y.dtype == torch.float32


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_of_first_and_second_order(per_channel):
    noise = DiffusionNoise(100, noise_std=0.5, clean_share=0.25, per_channel=per_channel)
    x = torch.randn(3, 2, 4, dtype=torch.float64).requires_grad_()
    params = noise.sample(x)
    assert torch.autograd.gradcheck(lambda x: noise(x, params=params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: noise(x, params=params), (x,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("t_max", "t_min", "seed") for value in (-1, 1.5, math.nan, math.inf, "many")),
        ("t_min", 501),
        *(("noise_std", value) for value in (-0.1, math.nan, math.inf, None)),
        *((name, value) for name in ("beta_start", "beta_end") for value in (0.0, 1.0, math.nan, "small")),
        *(("clean_share", value) for value in (-0.1, 1.1, math.nan, "half", None)),
        *((name, "other") for name in ("schedule", "distribution", "parity")),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name}="):
        DiffusionNoise(**{name: value})


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("schedule", "linear, cosine, quadratic, sigmoid, constant, jsd"),
        ("distribution", "uniform, priority"),
        ("parity", "official, paper"),
    ],
)
def test_unknown_names_list_the_known_ones(setting, known):
    with pytest.raises(ValueError, match=f"{setting}='other' is unknown; choose one of {known}"):
        DiffusionNoise(**{setting: "other"})


PAPER = {
    "parity": "official",
    "t_max": 500,
    "t_min": 10,
    "noise_std": 0.05,
    "schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 2e-2,
    "distribution": "uniform",
    "clean_share": 0.5,
    "per_channel": False,
    "seed": 0,
}
FEATURES = {"noise_std": 0.5, "beta_end": 1e-2, "clean_share": "adaptive", "per_channel": True}


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        (None, {}),
        ("new_data", {}),
        ("stylegan2", {"t_max": 1000, "distribution": "priority"}),
        ("stylegan2_ffhq", {}),
        ("insgen", {"t_min": 5}),
        ("projected_gan", {"t_min": 5, "distribution": "priority", **FEATURES}),
    ],
)
def test_defaults_and_presets_are_those_of_the_paper(name, differs):
    noise = DiffusionNoise() if name is None else DiffusionNoise.preset(name)
    assert {setting: getattr(noise, setting) for setting in PAPER} == PAPER | differs
    assert noise.t_max == noise.T


def test_the_preset_for_few_dimensions_leaves_the_signal_as_it_is():
    noise = DiffusionNoise.preset("low_dimensional", noise_std=0.8 * 2.83)
    assert noise.gain.min() > 0.97
    assert noise.noise_scale[-1].item() == pytest.approx(0.5, abs=0.005)
    assert noise.t_list.min() > 0


def test_changed_presets():
    assert set(PRESETS) == {"new_data", "stylegan2", "stylegan2_ffhq", "insgen", "projected_gan", "low_dimensional"}
    features = DiffusionNoise.preset("projected_gan", t_max=200)
    assert (features.t_max, features.noise_std, features.beta_end, features.per_channel) == (200, 0.5, 1e-2, True)
    assert DiffusionNoise.preset("stylegan2").t_max == 1000
    with pytest.raises(ValueError, match="name='biggan' is unknown; choose one of new_data"):
        DiffusionNoise.preset("biggan")


@given(
    st.lists(st.integers(1, 5), max_size=4),
    st.integers(0, 4),
    st.sampled_from((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    st.sampled_from(list(SCHEDULES)),
    st.sampled_from((0.0, 0.1, 0.5, 0.99, 1.0)),
    st.booleans(),
)
def test_shape_dtype_and_finiteness_hold(inner, n, dtype, schedule, p, per_channel):
    noise = DiffusionNoise(20, schedule=schedule, per_channel=per_channel and bool(inner), noise_std=1.0)
    noise.set_p(p)
    x = torch.randn(n, *inner).to(dtype)
    y, t = noise(x, return_t=True)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert t.shape == x.shape[: 1 + noise.per_channel]
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(()), ValueError, r"x has shape \[\]"),
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "x has dtype torch.int64; allowed are"),
        (1.0, TypeError, "x is a float"),
    ],
)
def test_inputs_that_cannot_be_diffused(x, error, message):
    with pytest.raises(error, match=message):
        DiffusionNoise(100)(x)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_embedding_shapes(shape, dtype):
    t = torch.ones(shape, dtype=dtype)
    for embedding, width in ((timestep_embedding(t, 8), 8), (timestep_embedding(t, kind="raw"), 1)):
        assert (embedding.shape, embedding.dtype) == ((*shape, width), torch.float32)


def test_embeddings():
    t = torch.arange(1001)
    assert torch.equal(timestep_embedding(t, kind="raw"), t[:, None].float())
    embedding = timestep_embedding(t)
    expected = [f(500 / 10000 ** (i / 31)) for f in (math.cos, math.sin) for i in range(32)]
    torch.testing.assert_close(embedding[500], torch.tensor(expected), rtol=0, atol=1e-4)
    # What the raw form lacks: any two steps stay apart after normalisation.
    gram = torch.nn.functional.normalize(embedding, dim=1) @ torch.nn.functional.normalize(embedding, dim=1).T
    assert (gram - 2 * torch.eye(1001)).max() < 0.99
    torch.testing.assert_close(timestep_embedding(t, 2), torch.stack([t.cos(), t.sin()], 1), rtol=0, atol=1e-4)
    slow = t / 10000
    expected = torch.stack([t.cos(), slow.cos(), t.sin(), slow.sin()], 1)
    torch.testing.assert_close(timestep_embedding(t, 4), expected, rtol=0, atol=1e-4)


def test_the_embedding_is_differentiable_with_respect_to_a_float_t():
    """Twice, for the frequency 1: the cosine and the sine give their negatives."""
    t = torch.tensor([0.5, 3.0, 250.0], requires_grad=True)
    embedded = timestep_embedding(t, 2).sum(-1)
    (slope,) = torch.autograd.grad(embedded.sum(), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), t)
    torch.testing.assert_close(curvature, -embedded)


@pytest.mark.parametrize("settings", [{"dim": 7}, {"dim": 0}, {"kind": "learned"}])
def test_bad_embeddings(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        timestep_embedding(torch.arange(3), **settings)
