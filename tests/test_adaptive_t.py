"""AdaptiveT: where p and T go, what stops them, and that a resumed run goes there too."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from gan_regularizers import AdaptiveT, DiffusionNoise, StatisticWarning

UP, DOWN = torch.ones(5), -torch.ones(5)


def controller(noise: DiffusionNoise | None = None, **settings) -> AdaptiveT:
    """A move of p by 0.1, which is T by 10, every two batches of five."""
    noise = DiffusionNoise(100, t_min=0) if noise is None else noise
    return AdaptiveT(noise, **{"kimg": 0.1, "interval": 2, **settings})


def interval(adapt: AdaptiveT, logits: torch.Tensor, batch_size: int = 5) -> None:
    for batch in range(adapt.interval):
        adapt.observe(logits)
        assert adapt.step(batch_size) is (batch == adapt.interval - 1)


def state(adapt: AdaptiveT) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in adapt.buffers()]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_follows_a_computed_course():
    adapt = controller()
    assert (float(adapt.p), int(adapt.T)) == (0, 0)
    assert math.isnan(adapt.r_d)
    course = [(UP, 0.1), (UP, 0.2), (DOWN, 0.1), (DOWN, 0.0), (DOWN, 0.0), (UP, 0.1)]
    for logits, p in course:
        interval(adapt, logits)
        assert float(adapt.p) == pytest.approx(p, abs=1e-7)
        assert int(adapt.T) == round(100 * p)
        assert float(adapt.r_d) == float(logits[0])
        assert adapt.noise.t_list.max() <= adapt.T
        np.testing.assert_allclose(adapt.noise.gain, np.sqrt(adapt.noise.alpha_bar(int(adapt.T))), rtol=1e-6)


def test_published_pace():
    """T_min 10, T_max 500, interval 4, 100 kimg: 256 images move p by 0.00256 and so T by 1.25."""
    adapt = AdaptiveT(DiffusionNoise(500))
    for _ in range(10):
        interval(adapt, torch.ones(64), batch_size=64)
    assert float(adapt.p) == pytest.approx(0.0256)
    assert int(adapt.T) == 10 + round(0.0256 * 490)


@pytest.mark.parametrize(
    ("positive", "r_d", "direction"), [(90, 0.8, 1), (81, 0.62, 1), (80, 0.6, 0), (79, 0.58, -1), (0, -1.0, -1)]
)
def test_signs_are_averaged_over_the_interval(positive, r_d, direction):
    """Eighty of a hundred is r_d = 0.6, the target: nothing moves."""
    adapt = controller(initial_p=0.5)
    length = adapt.T.clone()
    logits = torch.where(torch.arange(100) < positive, 3.0, -0.1)
    for part in (logits[:70].view(35, 2), logits[70:, None, None]):
        adapt.observe(part)
        adapt.step(5)
    assert float(adapt.r_d) == pytest.approx(r_d)
    assert float(adapt.p) == pytest.approx(0.5 + 0.1 * direction)
    if direction == 0:
        assert torch.equal(adapt.T, length)


@pytest.mark.parametrize(("midpoint", "r_d"), [(0.0, 1.0), (0.25, 0.25), (0.5, 0.0), (0.8, -0.5)])
def test_midpoint(midpoint, r_d):
    adapt = controller(midpoint=midpoint, interval=1)
    interval(adapt, torch.tensor([0.25, 0.75, 0.9, 0.1]))
    assert float(adapt.r_d) == r_d


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_outputs_of_any_dtype(dtype):
    adapt = controller(interval=1)
    interval(adapt, torch.tensor([1e-4, 0.0, -1e-4, 2.0], dtype=dtype).requires_grad_())
    assert float(adapt.r_d) == 0.25


def test_inference_mode_leaves_nothing_behind():
    adapt = controller(interval=1)
    with torch.inference_mode():
        interval(adapt, UP)
    interval(adapt, UP)
    assert float(adapt.p) == pytest.approx(0.1)
    x = torch.zeros(2, 3, requires_grad=True)
    adapt.noise(x).sum().backward()
    assert x.grad.any()


def test_step_counts_images():
    adapt = controller()
    adapt.observe(UP)
    assert adapt.step(1) is False
    assert adapt.step(np.int64(7)) is True
    assert float(adapt.p) == pytest.approx(8 / 100)


@pytest.mark.parametrize("p_max", [0.25, 0.7, 0.3, 1.0])
def test_cap_is_reached_once_and_said_once(p_max):
    """0.7 and 0.3 have no exact float32."""
    adapt = controller(p_max=p_max, initial_p=p_max - 0.05)
    with pytest.warns(StatisticWarning, match=rf"cap of {p_max:g} .* pass midpoint=0\.5") as caught:
        interval(adapt, UP)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for _ in range(3):
        interval(adapt, UP)
    assert float(adapt.p) == pytest.approx(p_max)
    assert int(adapt.T) == round(100 * p_max)


def test_cap_is_silent_where_d_still_errs():
    adapt = controller(p_max=0.1)
    interval(adapt, torch.tensor([1.0] * 19 + [-1.0]))
    assert float(adapt.p) == pytest.approx(0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_outputs_move_nothing(value):
    adapt = controller(initial_p=0.5)
    before = state(adapt)
    adapt.observe(UP)
    adapt.step(5)
    adapt.observe(torch.tensor([1.0, value]))
    with pytest.warns(StatisticWarning, match="NaN or infinite") as caught:
        adapt.step(5)
    assert caught[0].filename == __file__
    assert_same(state(adapt), before)
    interval(adapt, UP)
    assert float(adapt.p) == pytest.approx(0.6)


@pytest.mark.parametrize("observed", [None, torch.zeros(0)])
def test_nothing_observed_moves_nothing(observed):
    adapt = controller(initial_p=0.5)
    before = state(adapt)
    with pytest.warns(StatisticWarning, match="nothing was observed"):
        for _ in range(2):
            if observed is not None:
                adapt.observe(observed)
            adapt.step(5)
    assert_same(state(adapt), before)


def test_list_is_drawn_anew_at_every_move():
    adapt = controller(DiffusionNoise(100, t_min=0), kimg=1.0, initial_p=0.5)
    before, moves = adapt.noise.t_list.clone(), 0
    for _ in range(6):
        T = int(adapt.T)
        interval(adapt, UP, batch_size=2)
        assert not torch.equal(adapt.noise.t_list, before)
        before, moves = adapt.noise.t_list.clone(), moves + (int(adapt.T) != T)
    assert 0 < moves < 6
    # The same course elsewhere gives the same list, another seed another one.
    for seed, same in ((0, True), (1, False)):
        other = controller(DiffusionNoise(100, t_min=0, seed=seed), kimg=1.0, initial_p=0.5)
        torch.manual_seed(seed + 99)
        for _ in range(6):
            interval(other, UP, batch_size=2)
        assert torch.equal(other.noise.t_list, adapt.noise.t_list) is same


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_resume_in_the_middle_of_an_interval(how):
    generator = torch.Generator().manual_seed(5)
    logits = [torch.randn(5, generator=generator) + 0.8 for _ in range(40)]

    def run(adapt: AdaptiveT, batches: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        course = []
        for batch in batches:
            adapt.observe(batch)
            adapt.step(5)
            course += state(adapt)
        return course

    def fresh() -> AdaptiveT:
        return controller(interval=4, initial_p=0.3)

    whole, first = fresh(), fresh()
    course = run(whole, logits)
    assert_same(run(first, logits[:18]), course[: 18 * len(state(whole))])
    if how == "state_dict":
        second = fresh()
        second.load_state_dict(first.state_dict())
    elif how == "deepcopy":
        second = copy.deepcopy(first)
    else:
        second = pickle.loads(pickle.dumps(first))
    assert_same(run(second, logits[18:]), course[18 * len(state(whole)) :])
    assert second.get_extra_state() == whole.get_extra_state()
    assert int(whole.noise.redraws) > 5


def test_initial_p_yields_to_what_the_noise_already_has():
    noise = DiffusionNoise(100, t_min=0)
    assert float(controller(noise, initial_p=0.25).p) == 0.25
    assert float(controller(noise).p) == 0.25
    loaded = DiffusionNoise(100, t_min=0)
    loaded.load_state_dict(noise.state_dict())
    assert float(controller(loaded).p) == 0.25
    barely = DiffusionNoise(100, t_min=0)
    barely.set_p(0.999)
    assert float(controller(barely).p) == pytest.approx(0.999)


def test_p_above_the_cap_comes_down_to_it():
    noise = DiffusionNoise(100, t_min=0)
    noise.set_p(0.8)
    adapt = controller(noise, p_max=0.25)
    interval(adapt, DOWN)
    assert float(adapt.p) == 0.25


def test_half_precision_leaves_the_state_exact():
    adapt = controller(initial_p=0.123).half()
    assert {buffer.dtype for buffer in adapt.buffers()} == {torch.float32, torch.int64}
    assert float(adapt.p) == pytest.approx(0.123, abs=1e-7)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, math.nan, math.inf, 10**400, "five", None])
def test_bad_batch_sizes(batch_size):
    with pytest.raises((ValueError, TypeError), match="batch_size="):
        controller().step(batch_size)


@pytest.mark.parametrize("logits", [torch.zeros(3, dtype=torch.int64), 0.5, None])
def test_outputs_of_another_type(logits):
    with pytest.raises(TypeError, match="real_logits is"):
        controller().observe(logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, bad) for name in ("target", "kimg", "midpoint", "p_max", "initial_p") for bad in (math.nan, "high")),
        *(("target", value) for value in (-1.0, 1.0)),
        *(("interval", value) for value in (0, 1.5, math.nan, math.inf, None)),
        *(("kimg", value) for value in (0.0, -1.0, math.inf)),
        *(("p_max", value) for value in (-0.1, 1.1)),
        ("midpoint", math.inf),
        ("initial_p", 1.1),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name}="):
        controller(**{name: value})


def test_initial_p_may_not_exceed_the_cap():
    with pytest.raises(ValueError, match=r"initial_p=0\.5 is outside \[0, 0\.25\]"):
        controller(p_max=0.25, initial_p=0.5)


def test_drives_a_diffusion_noise_only():
    with pytest.raises(TypeError, match="noise is a Linear; AdaptiveT drives a DiffusionNoise"):
        AdaptiveT(torch.nn.Linear(1, 1))


def test_state_is_loaded_after_a_dry_run_without_data():
    adapt, loaded = AdaptiveT(DiffusionNoise(100)), AdaptiveT(DiffusionNoise(100))
    adapt.observe(torch.ones(3))
    loaded.observe(torch.ones(3, device="meta"))
    loaded.load_state_dict(adapt.state_dict())
    loaded.observe(torch.ones(2))
    assert loaded.get_extra_state()["sums"] == [5, 5, 0]
