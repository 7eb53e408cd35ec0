"""AdaptiveT: where p and T go, what stops them, and that a resumed run goes there too."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, StatisticWarning, wrap

UP, DOWN = torch.ones(5), -torch.ones(5)


def controller(noise: DiffusionNoise | None = None, **settings) -> AdaptiveT:
    """A move of p by 0.1, which is T by 10, every two batches of five."""
    noise = DiffusionNoise(100, t_min=0) if noise is None else noise
    adapt = AdaptiveT(noise, **{"kimg": 0.1, "interval": 2, **settings})
    noise(torch.zeros(1, 1))  # a noise that never ran would be noticed
    return adapt


def interval(adapt: AdaptiveT, logits: torch.Tensor, batch_size: int = 5) -> None:
    for batch in range(adapt.interval):
        adapt.observe(logits)
        assert adapt.step(batch_size) is (batch == adapt.interval - 1)


def state(adapt: AdaptiveT) -> list[torch.Tensor]:
    return [value.clone() for value in (*adapt.buffers(), torch.tensor(adapt.T), adapt.noise.t_list)]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_follows_a_computed_course():
    adapt = controller()
    assert (float(adapt.p), adapt.T) == (0, 0)
    assert math.isnan(adapt.r_d)
    course = [(UP, 0.1), (UP, 0.2), (DOWN, 0.1), (DOWN, 0.0), (DOWN, 0.0), (UP, 0.1)]
    for logits, p in course:
        interval(adapt, logits)
        assert float(adapt.p) == pytest.approx(p, abs=1e-7)
        assert round(100 * p) == adapt.T
        assert float(adapt.r_d) == float(logits[0])
        assert adapt.noise.t_list.max() <= adapt.T
        np.testing.assert_allclose(adapt.noise.gain, np.sqrt(adapt.noise.alpha_bar(adapt.T)), rtol=1e-6)


def test_published_pace():
    """T_min 10, T_max 500, interval 4, 100 kimg: 256 images move p by 0.00256 and so T by 1.25."""
    adapt = AdaptiveT(DiffusionNoise(500))
    adapt.noise(torch.zeros(1, 1))
    for _ in range(10):
        interval(adapt, torch.ones(64), batch_size=64)
    assert float(adapt.p) == pytest.approx(0.0256)
    assert 10 + round(0.0256 * 490) == adapt.T


@pytest.mark.parametrize(
    ("positive", "r_d", "direction"), [(90, 0.8, 1), (81, 0.62, 1), (80, 0.6, 0), (79, 0.58, -1), (0, -1.0, -1)]
)
def test_signs_are_averaged_over_the_interval(positive, r_d, direction):
    """Eighty of a hundred is r_d = 0.6, the target: nothing moves."""
    adapt = controller(initial_p=0.5)
    length = adapt.T
    logits = torch.where(torch.arange(100) < positive, 3.0, -0.1)
    for part in (logits[:70].view(35, 2), logits[70:, None, None]):
        adapt.observe(part)
        adapt.step(5)
    assert float(adapt.r_d) == pytest.approx(r_d)
    assert float(adapt.p) == pytest.approx(0.5 + 0.1 * direction)
    if direction == 0:
        assert length == adapt.T


@pytest.mark.parametrize(("midpoint", "r_d"), [(0.0, 4 / 6), (0.25, 1 / 6), (0.5, 0.0), (0.8, -2 / 6)])
def test_midpoint(midpoint, r_d):
    adapt = controller(midpoint=midpoint, interval=1)
    interval(adapt, torch.tensor([0.25, 0.75, 0.9, 0.1, 1.5, -0.5]))
    assert float(adapt.r_d) == pytest.approx(r_d)


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
    assert round(100 * p_max) == adapt.T


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
        T = adapt.T
        interval(adapt, UP, batch_size=2)
        assert not torch.equal(adapt.noise.t_list, before)
        before, moves = adapt.noise.t_list.clone(), moves + (adapt.T != T)
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
    assert torch.equal(second.get_extra_state(), whole.get_extra_state())
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


@pytest.mark.parametrize(
    ("logits", "named"),
    [
        (torch.zeros(3, dtype=torch.int64), "real_logits is torch.int64"),
        (0.5, "real_logits is float"),
        (None, "real_logits is NoneType"),
        ([UP, {"y": "word"}], r"real_logits\[1\]\['y'\] is str"),
    ],
)
def test_outputs_of_another_type(logits, named):
    with pytest.raises(TypeError, match=named):
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


def test_drives_the_noise_of_a_wrapped_discriminator():
    noise, D = DiffusionNoise(100), nn.Linear(2, 1)
    assert AdaptiveT(wrap(D, noise, tell="nothing")).noise is noise
    assert AdaptiveT(nn.DataParallel(D)).noise is noise
    with pytest.raises(TypeError, match="noise is a float; AdaptiveT drives a DiffusionNoise, or that of a wrapped"):
        AdaptiveT(0.5)
    with pytest.raises(ValueError, match=r"D, a Linear, is not wrapped; call wrap\(D, ...\) first"):
        AdaptiveT(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="D is wrapped without a DiffusionNoise"):
        AdaptiveT(wrap(nn.Linear(2, 1), DiffAugment()))


def test_outputs_in_lists_tuples_and_dictionaries():
    adapt = controller(interval=1, midpoint=0.5)
    interval(adapt, {"scales": [torch.ones(4, 1), (torch.zeros(2, 1, 3, 3),)], "whole": nn.Parameter(torch.ones(2))})
    assert float(adapt.r_d) == pytest.approx((4 - 18 + 2) / 24)


class Labelled(torch.Tensor):
    pass


def test_tensor_subclasses():
    adapt = controller(interval=1)
    interval(adapt, torch.tensor([1.0, -1.0, 3.0, 3.0]).as_subclass(Labelled))
    assert float(adapt.r_d) == 0.5
    assert type(adapt.get_extra_state()) is torch.Tensor


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_differences_do_not_know_an_offset(offset):
    """Losses of differences leave D's offset free, so it must not matter; nor does a midpoint."""
    adapt, real, fake = controller(interval=1, midpoint=0.5), torch.randn(64) + 1, torch.randn(64) - 1
    adapt.observe([real + offset], [fake + offset])
    adapt.step(5)
    assert float(adapt.r_d) == pytest.approx(float(torch.sign(real - fake).mean()))
    assert float(adapt.r_d) < 1


def test_differences_of_other_shapes():
    with pytest.raises(ValueError, match=r"real_logits have shapes \[\[4\]\] and fake_logits \[\[4, 1\]\]"):
        controller().observe(torch.zeros(4), torch.zeros(4, 1))


def test_reals_that_are_trained_negative():
    adapt = controller(interval=1, real_sign=-1, initial_p=0.5)
    interval(adapt, DOWN)
    assert (float(adapt.r_d), adapt.T) == (1.0, 55)
    with pytest.raises(ValueError, match="real_sign=0 is neither 1"):
        controller(real_sign=0)


def test_probabilities_are_noticed_in_the_first_interval_once():
    adapt = controller(interval=1)
    with pytest.warns(StatisticWarning, match=r"all lie between 0 and 1; if .* pass midpoint=0\.5") as caught:
        interval(adapt, torch.rand(9) * 0.9 + 0.05)
    assert len(caught) == 1
    interval(adapt, torch.rand(9) * 0.9 + 0.05)
    interval(controller(interval=1, midpoint=0.5), torch.rand(9) * 0.9 + 0.05)
    interval(controller(interval=1), torch.tensor([0.5, 0.4, -0.1]))
    interval(controller(interval=1), torch.tensor([0.5, 0.4, 1.5]))
    interval(controller(interval=1), torch.tensor([0.5, 0.4, 0.0]))  # where logits begin
    interval(controller(interval=1), torch.tensor([0.5, 0.4, 1.0]))


def test_a_noise_that_does_not_run_is_noticed_in_the_first_interval_once():
    """D is trained through a method, or the controller was built for a copy of it."""
    D = wrap(nn.Linear(3, 1), DiffusionNoise(100), tell="nothing")
    adapt, copied = AdaptiveT(D, interval=1), copy.deepcopy(D)
    copied(torch.zeros(2, 3))
    with pytest.warns(StatisticWarning, match=r"the noise did not run .*: build AdaptiveT\(D\) after it") as caught:
        interval(adapt, UP)
    assert len(caught) == 1
    interval(adapt, UP)
    adapt = AdaptiveT(copied, interval=1)
    copied(torch.zeros(2, 3))
    interval(adapt, UP)


def test_what_was_observed_may_be_copied_in_place():
    """As loops over state_dict() do that know no load_state_dict."""
    first, second = controller(interval=4), controller(interval=4)
    for _ in range(3):
        first.observe(UP)
        first.step(5)
    own = second.state_dict()
    for name, value in first.state_dict().items():
        assert isinstance(value, torch.Tensor)
        own[name].copy_(value)
    for adapt in (first, second):
        adapt.observe(UP)
        assert adapt.step(5)
    assert_same(state(first), state(second))
    assert float(first.p) == pytest.approx(0.2)


def test_a_loaded_state_is_not_moved_to_the_initial_p():
    """Also where p is 1, as at the start, and the list was never drawn anew."""
    noise = DiffusionNoise(100)
    noise.load_state_dict(DiffusionNoise(100).state_dict())
    assert float(AdaptiveT(noise, initial_p=0.25).p) == 1


def test_extra_state_of_another_kind():
    with pytest.raises(TypeError, match="the extra state of AdaptiveT is a dict"):
        controller().set_extra_state({"sums": [0, 0, 0]})


def test_built_inside_inference_mode():
    with torch.inference_mode():
        adapt = controller(interval=1)
    interval(adapt, UP)
    assert float(adapt.p) == pytest.approx(0.05)


def test_state_is_loaded_after_a_dry_run_without_data():
    adapt, loaded = AdaptiveT(DiffusionNoise(100)), AdaptiveT(DiffusionNoise(100))
    adapt.observe(torch.ones(3))
    loaded.observe(torch.ones(3, device="meta"))
    loaded.load_state_dict(adapt.state_dict())
    loaded.observe(torch.ones(2))
    assert loaded.get_extra_state().tolist() == [5, 5, 0, 0, 0, 0]
