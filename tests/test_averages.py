"""The state of AdaptiveT under what training code does to states: copies, averages, casts, moves, files."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, StatisticWarning, wrap

# Outputs and interval are such that an interval is neither empty nor decided by one batch.
INTERVAL = 3
BATCH = 40


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3)
        self.logits = nn.Linear(2 * 4 * 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.convolution(x).flatten(1))


class Alone(nn.Module):
    """What a script has: a controller beside D, whose own state is the controller's."""

    def __new__(cls) -> AdaptiveT:
        return AdaptiveT(discriminator(), interval=INTERVAL, kimg=1.0, initial_p=0.5)


class Child(nn.Module):
    """A controller that is a child of its own D."""

    def __new__(cls) -> nn.Module:
        D = discriminator()
        D.adapt = AdaptiveT(D, interval=INTERVAL, kimg=1.0, initial_p=0.5)
        return D


class Parent(nn.Module):
    """What Lightning users write: one module that holds D and its controller."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = discriminator()
        self.adapt = AdaptiveT(self.discriminator, interval=INTERVAL, kimg=1.0, initial_p=0.5)


def discriminator() -> nn.Module:
    return wrap(Critic(), DiffAugment(), DiffusionNoise(100, distribution="priority"), tell="nothing")


@pytest.fixture(params=[Alone, Child, Parent], ids=["alone", "child of D", "in a parent"])
def build(request) -> Callable[[], nn.Module]:
    return request.param


def controller(model: nn.Module) -> AdaptiveT:
    return next(module for module in model.modules() if isinstance(module, AdaptiveT))


def outputs(i: int) -> torch.Tensor:
    """Mostly positive in some batches, mostly negative in others."""
    generator = torch.Generator().manual_seed(i)
    return torch.randn(BATCH, generator=generator, dtype=torch.float32) + (1.5 if i % 7 < 4 else -1.0)


def train(model: nn.Module, batches: range) -> list[bool]:
    """Observe and step, with outputs that depend on the number of the batch alone."""
    adapt, ends = controller(model), []
    for i in batches:
        adapt.noise.drawn_from = True  # D itself is not run here
        adapt.observe(outputs(i))
        ends.append(adapt.step(BATCH))
    return ends


def trained(build: Callable[[], nn.Module], batches: int = 3 * INTERVAL + 1) -> nn.Module:
    model = build()
    train(model, range(batches))
    return model


def assert_of_one_moment(noise: DiffusionNoise) -> None:
    """T, list and tables are those of a fresh noise of this p and number of redraws."""
    fresh = DiffusionNoise(noise.t_max, distribution=noise.distribution)
    fresh.load_state_dict({"p": noise.p, "redraws": noise.redraws})
    fresh = copy.deepcopy(fresh)  # so that nothing is left of the chain it had before
    assert noise.T == fresh.T == noise.t_min + round(float(noise.p) * (noise.t_max - noise.t_min))
    for name in ("t_list", "gain", "noise_scale"):
        assert torch.equal(getattr(noise, name), getattr(fresh, name)), name
    # What a forward takes is the same, not only what the properties say.
    x = torch.rand(64, 1, 2, 2)
    torch.manual_seed(5)
    expected = fresh(x, return_t=True)
    torch.manual_seed(5)
    assert all(map(torch.equal, noise(x, return_t=True), expected))


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    first, second = first.state_dict(), second.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True, msg=name)


def assert_goes_on_alike(model: nn.Module, other: nn.Module) -> None:
    """Both come through the rest of a training alike, at the same batches."""
    assert_same_state(controller(model), controller(other))
    batches = range(1000, 1000 + 2 * INTERVAL)
    assert train(model, batches) == train(other, batches)
    assert_same_state(controller(model), controller(other))
    assert_of_one_moment(controller(model).noise)
    assert_of_one_moment(controller(other).noise)


def by_copy_(target: nn.Module, source: nn.Module) -> None:
    own = target.state_dict()
    for name, value in source.state_dict().items():
        own[name].copy_(value)


def by_data_copy_(target: nn.Module, source: nn.Module) -> None:
    own = target.state_dict()
    for name, value in source.state_dict().items():
        own[name].data.copy_(value)


def by_load(target: nn.Module, source: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def by_assignment(target: nn.Module, source: nn.Module) -> None:
    target.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)


def by_file(target: nn.Module, source: nn.Module) -> None:
    stream = io.BytesIO()
    torch.save(source.state_dict(), stream)
    stream.seek(0)
    target.load_state_dict(torch.load(stream, weights_only=True))


COPIES = [by_copy_, by_data_copy_, by_load, by_assignment, by_file]


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("batches", range(2 * INTERVAL, 3 * INTERVAL))
def test_a_copied_state_goes_on_as_the_original(build, way, batches):
    """To the bit, wherever in an interval the copy is taken."""
    source, target = trained(build, batches), build()
    way(target, source)
    assert_of_one_moment(controller(target).noise)
    assert_goes_on_alike(target, source)


@pytest.mark.parametrize("way", COPIES)
def test_a_state_over_another_one(build, way):
    """A controller that has a history of its own forgets it."""
    source, target = trained(build), trained(build, INTERVAL + 2)
    way(target, source)
    assert_goes_on_alike(target, source)


def test_copies_between_two_steps_of_an_interval_are_noticed_again(build):
    """A counter that was read once is read again after every write."""
    target = build()
    for batches in (INTERVAL + 1, INTERVAL + 2, 2 * INTERVAL + 1):
        source = trained(build, batches)
        by_copy_(target, source)
        assert_goes_on_alike(target, source)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_clones(build, clone):
    model = trained(build)
    duplicate = clone(model)
    before = {name: value.clone() for name, value in duplicate.state_dict().items()}
    assert controller(duplicate).noise is not controller(model).noise
    train(model, range(50, 50 + INTERVAL))
    for name, value in duplicate.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    train(duplicate, range(50, 50 + INTERVAL))
    assert_goes_on_alike(duplicate, model)


def test_a_clone_of_a_discriminator_with_its_controller_is_driven_by_it():
    """The noise that the clone's controller moves is the one that the clone's hook runs."""
    D = copy.deepcopy(trained(Child))
    D.adapt.noise.drawn_from = False
    D(torch.rand(2, 3, 6, 6))
    assert D.adapt.noise.drawn_from


# Each averages by its own rule over a model whose p moves, and returns the averaged models, one after each update.
def by_lerp_of_everything(model: nn.Module) -> Iterator[nn.Module]:
    average = copy.deepcopy(model)
    while True:
        with torch.no_grad():
            for mine, its in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(its, 0.3)
                else:
                    mine.copy_(its)
        yield average


def as_timm_v2(model: nn.Module) -> Iterator[nn.Module]:
    """Everything is averaged, and whole numbers are truncated on the way back."""
    average = copy.deepcopy(model).eval()
    while True:
        with torch.no_grad():
            for mine, its in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                mine.copy_(0.7 * mine + 0.3 * its)
        yield average


def as_timm_v3(model: nn.Module) -> Iterator[nn.Module]:
    average = copy.deepcopy(model).eval()
    while True:
        with torch.no_grad():
            mine, its = list(average.state_dict().values()), list(model.state_dict().values())
            floating = [i for i, value in enumerate(mine) if value.is_floating_point()]
            torch._foreach_lerp_([mine[i] for i in floating], [its[i] for i in floating], weight=0.3)
            for i in set(range(len(mine))) - set(floating):
                mine[i].copy_(its[i])
        yield average


def as_ema_pytorch(model: nn.Module) -> Iterator[nn.Module]:
    """Floating parameters and buffers, past autograd and its counter of writes."""
    average = copy.deepcopy(model)
    while True:
        for values in (nn.Module.named_parameters, nn.Module.named_buffers):
            for (_, mine), (_, its) in zip(values(average), values(model), strict=True):
                if mine.is_floating_point():
                    mine.data.lerp_(its.data, 0.3)
        yield average


def by_averaged_model(model: nn.Module) -> Iterator[nn.Module]:
    average = AveragedModel(model, use_buffers=True)
    while True:
        average.update_parameters(model)
        yield average.module


def by_averaged_model_ema(model: nn.Module) -> Iterator[nn.Module]:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    while True:
        average.update_parameters(model)
        yield average.module


@pytest.mark.parametrize(
    "rule",
    [by_lerp_of_everything, as_timm_v2, as_timm_v3, as_ema_pytorch, by_averaged_model, by_averaged_model_ema],
)
def test_averages(build, rule):
    """An average has a p between, and is of one moment at every step; it loads where the original does."""
    model = build()
    averages, moved = rule(model), 0
    for i in range(5):
        train(model, range(i * INTERVAL, (i + 1) * INTERVAL))
        average = controller(next(averages))
        assert_of_one_moment(average.noise)
        assert 0 <= float(average.p) <= 1
        moved += float(average.p) != 0.5
    assert moved > 1
    stream = io.BytesIO()
    torch.save(next(averages).state_dict(), stream)
    stream.seek(0)
    again = build()
    again.load_state_dict(torch.load(stream, weights_only=True))
    assert_of_one_moment(controller(again).noise)
    train(again, range(INTERVAL))


def test_an_average_of_cap_and_floor_stays_within_the_bounds():
    """Weights that add up to 1 only up to a rounding take p no further than its bound."""
    adapt = AdaptiveT(DiffusionNoise(100), initial_p=1.0)
    for factor in (1 + 1e-6, -1e-7):
        with torch.no_grad():
            adapt.noise.p.mul_(factor)
        assert (100 if factor > 0 else 10) == adapt.T
        adapt.noise(torch.rand(2, 3))


CASTS = {
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "double": lambda model: model.double(),
    "half and back": lambda model: model.half().float(),
    "dtype and device": lambda model: model.to("cpu", torch.bfloat16),
    "type": lambda model: model.type(torch.float16),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casts_leave_the_controller_as_it_is(build, cast):
    model, same = trained(build), trained(build)
    assert_goes_on_alike(cast(model), same)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_default_dtypes(build, dtype):
    torch.set_default_dtype(dtype)
    try:
        model = trained(build)
        duplicate = copy.deepcopy(model)
    finally:
        torch.set_default_dtype(torch.float32)
    same = trained(build)
    assert_same_state(controller(model), controller(same))
    assert_goes_on_alike(duplicate, same)


def small_steps(adapt: AdaptiveT) -> float:
    """How far p goes in 100 moves, none of which float16 could hold beside 0.5."""
    before = float(adapt.p)
    for _ in range(100 * adapt.interval):
        adapt.noise.drawn_from = True
        adapt.observe(torch.ones(2))
        adapt.step(2)
    return float(adapt.p) - before


def in_a_narrow_dtype(adapt: AdaptiveT) -> None:
    """The state as a checkpoint in half precision brings it."""
    adapt.load_state_dict(
        {name: value.half() if value.is_floating_point() else value for name, value in adapt.state_dict().items()}
    )


def in_a_narrow_dtype_assigned(adapt: AdaptiveT) -> None:
    adapt.load_state_dict(
        {name: value.half() if value.is_floating_point() else value for name, value in adapt.state_dict().items()},
        assign=True,
    )


def in_narrow_buffers(adapt: AdaptiveT) -> None:
    """What FSDP's MixedPrecision(buffer_dtype=) does."""
    for buffer in adapt.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.to(torch.bfloat16)


@pytest.mark.parametrize("narrow", [in_a_narrow_dtype, in_a_narrow_dtype_assigned, in_narrow_buffers])
def test_p_moves_on_after_a_state_in_half_precision(narrow):
    adapt = AdaptiveT(DiffusionNoise(100), initial_p=0.5, interval=1, kimg=2.0)
    narrow(adapt)
    assert small_steps(adapt) == pytest.approx(0.1, rel=0.05)
    assert_of_one_moment(adapt.noise)


def to_meta_and_back(model: nn.Module) -> nn.Module:
    return model.to("meta").to_empty(device="cpu")


def to_empty_from_the_cpu(model: nn.Module) -> nn.Module:
    """Deferred initialisation, of a part that was not deferred."""
    return model.to_empty(device="cpu")


@pytest.mark.parametrize("move", [to_meta_and_back, to_empty_from_the_cpu])
def test_values_survive_meta(build, move):
    model, same = trained(build), trained(build)
    assert_goes_on_alike(move(model), same)


@pytest.mark.parametrize("way", COPIES)
def test_a_state_that_nobody_has_read_yet_survives_meta(way):
    """p, redraws and r_d were written, and nothing ran since."""
    source, target = trained(Alone), Alone()
    way(target, source)
    assert_goes_on_alike(to_meta_and_back(target), source)


def reset(model: nn.Module) -> None:
    """What FSDP does after to_empty."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


@pytest.mark.parametrize("reset", [reset, lambda _: None], ids=["reset", "as it is"])
def test_built_on_meta(build, reset):
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    reset(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert_goes_on_alike(model, build())


def test_reset_leaves_a_trained_controller_as_it_is(build):
    model = trained(build)
    reset(model)
    assert_same_state(controller(model), controller(trained(build)))


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_loaded_into_what_was_built_on_meta(build, assign):
    source = trained(build)
    with torch.device("meta"):
        target = build()
    if not assign:
        target.to_empty(device="cpu")
    target.load_state_dict(copy.deepcopy(source.state_dict()), assign=assign)
    assert not any(buffer.is_meta for buffer in target.buffers())
    assert_goes_on_alike(target, source)


def test_a_controller_beside_a_discriminator_that_was_built_on_meta():
    """D is given memory, and nobody thinks of the controller, which is no part of it."""
    with torch.device("meta"):
        D = discriminator()
        adapt = AdaptiveT(D, interval=1, initial_p=0.5)
    D.to_empty(device="cpu")
    D(torch.rand(2, 3, 6, 6))
    adapt.observe(torch.ones(3))
    assert adapt.step(50)
    assert float(adapt.p) == pytest.approx(0.5005)
    assert_of_one_moment(adapt.noise)


def test_everything_is_a_tensor_of_its_own_memory(build):
    """As safetensors, distributed checkpoints and loops over the values need it."""
    state = trained(build).state_dict()
    assert all(type(value) in (torch.Tensor, nn.Parameter) for value in state.values())
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)
    assert all(value.is_contiguous() and value.storage_offset() == 0 for value in state.values())
    assert {name: value.cpu() for name, value in state.items()}


@pytest.mark.parametrize("made_in", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_states_in_inference_mode(build, made_in):
    with made_in():
        model = build()
        model.load_state_dict(copy.deepcopy(trained(build).state_dict()))
    assert_goes_on_alike(model, trained(build))


def test_an_average_of_a_controller_before_its_first_move_is_quiet(recwarn):
    """Its r_d is NaN, and stays it; p and T do not care."""
    model = Alone()
    average = next(as_timm_v2(model))
    assert torch.isnan(average.r_d)
    train(average, range(INTERVAL))
    assert average.r_d.isfinite()
    assert not [warning for warning in recwarn if issubclass(warning.category, StatisticWarning)]
