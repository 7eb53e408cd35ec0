"""Normals that a draw holds in place of seeds, where the reference backend is in force."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gan_regularizers import DiffAugment, DiffusionNoise, InputRegularizer, same_draw, use_backend, wrap
from gan_regularizers.ops import TransformParams, input_transform, native, philox_normal
from gan_regularizers.state.normals import Normals


@pytest.fixture(autouse=True)
def _reference():
    with use_backend("reference"):
        yield


needs_kernels = pytest.mark.skipif(bool(native.missing("cpu")), reason=native.missing("cpu"))


def strong_noise(**settings) -> DiffusionNoise:
    return DiffusionNoise(100, noise_std=0.5, clean_share=0.0, **settings)


def images(n: int = 4, size: int = 8) -> Tensor:
    return torch.rand(n, 3, size, size) * 2 - 1


def test_a_draw_holds_normals_of_the_images_shape_and_no_seeds():
    x = images()
    for module in (strong_noise(), InputRegularizer(DiffAugment(), strong_noise())):
        params = module.sample(x)
        params = getattr(params, "noise", params)
        assert params.seed is None
        assert (params.normals.shape, params.normals.dtype) == (x.shape, torch.float32)
        assert 0.8 < params.normals.std() < 1.2
    assert strong_noise().sample(x.half()).normals.dtype == torch.float32
    assert strong_noise().sample(x.double()).normals.dtype == torch.float64


@needs_kernels
def test_kernels_get_seeds():
    with use_backend("native"):
        params = strong_noise().sample(images())
    assert params.normals is None
    assert params.seed.shape == (4,)


@needs_kernels
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_replay_is_the_same_to_the_bit_on_either_backend(per_channel, dtype):
    regularizer = InputRegularizer(DiffAugment(), strong_noise(per_channel=per_channel))
    x = images().to(dtype)
    params = regularizer.sample(x)
    y = regularizer(x, params=params)
    assert torch.equal(regularizer(x, params=copy.deepcopy(params)), y)
    torch.manual_seed(3)
    first = regularizer(x)
    torch.manual_seed(3)
    assert torch.equal(regularizer(x), first)
    assert not torch.equal(regularizer(x), first)
    alone = InputRegularizer(strong_noise(per_channel=per_channel))
    params = alone.sample(x)
    y = alone(x, params=params)
    with use_backend("native"):
        assert torch.equal(alone(x, params=params), y)


def test_noise_is_what_the_params_say():
    noise, x = strong_noise(), images()
    params = noise.sample(x, alpha_bar=0.25)
    assert params.t is None
    expected = 0.5 * x + params.noise_std[:, None, None, None] * params.normals
    torch.testing.assert_close(noise(x, params=params), expected)
    sequence = torch.rand(4, 3, 5)
    params = noise.sample(sequence)
    expected = params.gain[:, None, None] * sequence + params.noise_std[:, None, None] * params.normals
    torch.testing.assert_close(noise(sequence, params=params), expected)


def test_the_generator_that_is_given_makes_the_normals():
    regularizer, x = InputRegularizer(DiffAugment(), strong_noise()), images()
    first, second = (regularizer(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert torch.equal(first, second)
    assert not torch.equal(regularizer(x, generator=torch.Generator().manual_seed(2)), first)


def test_seeds_give_the_normals_of_philox_here_too():
    x = images()
    seed = torch.tensor([1, 2, 3, -4])
    y = input_transform(x, TransformParams(noise_std=torch.ones(4), seed=seed))
    assert torch.equal(y, x + philox_normal(seed, x[0].numel()).view(x.shape))


def test_images_of_one_draw_share_normals_by_their_shape():
    regularizer = InputRegularizer(strong_noise())
    drawn = regularizer.draw(images())
    small, large, again, small_again, double = (
        regularizer.params_of(drawn, x).noise.normals
        for x in (images(), images(size=16), images(size=16), images(), images().double())
    )
    assert torch.equal(small, small_again)
    assert torch.equal(large, again)
    assert double.dtype == torch.float64
    assert abs(float(torch.corrcoef(torch.stack([small.flatten(), large.flatten()[: small.numel()]]))[0, 1])) < 0.2


class Pair(nn.Module):
    """A D of two images that shows what it saw."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a, b


@pytest.mark.parametrize("compiled", [False, True])
def test_same_sized_images_of_a_call_have_the_same_noise(compiled):
    D = wrap(Pair(), strong_noise(), inputs=("a", "b"), tell="nothing")
    run = torch.compile(D, backend="aot_eager") if compiled else D
    zeros = torch.zeros(4, 3, 8, 8)
    a, b = run(zeros, zeros)
    assert torch.equal(a, b)
    assert a.std() > 0.01
    a, b = run(zeros, torch.zeros(4, 3, 4, 4))
    assert b.shape == (4, 3, 4, 4)
    assert b.std() > 0.01


class Critic(nn.Module):
    """A D that draws for itself behind the regularizer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.rand(7)
        self.seen.append((x.detach().clone(), mask))
        return (x * self.weight).square().sum((1, 2, 3)) * mask[0]


@pytest.mark.filterwarnings(r"ignore:`torch.cpu.amp.autocast\(:FutureWarning")  # torch 2.4's checkpoint
def test_calls_that_share_a_draw_have_the_same_noise_also_when_they_run_again():
    """And they leave the generator as they did before: what D draws itself is the same."""
    D = wrap(Critic(), DiffAugment("color"), strong_noise(), tell="nothing")
    zeros, large = torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 16, 16)
    with same_draw(D):
        outputs = [checkpoint(D, x, use_reentrant=False) for x in (zeros, zeros, large, large)]
    D(zeros)
    first = list(D.seen)
    assert torch.equal(first[0][0], first[1][0])
    assert torch.equal(first[2][0], first[3][0])
    assert not torch.equal(first[0][0], first[4][0])
    for i, output in reversed(list(enumerate(outputs))):
        D.seen.clear()
        output.sum().backward()
        ((x, mask),) = D.seen
        assert torch.equal(x, first[i][0])
        assert torch.equal(mask, first[i][1])


def test_a_draw_keeps_the_generators_states_and_not_the_normals():
    normals = Normals()
    normals.like(images(size=32))
    assert [made.normals for made in normals._made] == [None]


def test_behind_a_part_of_ones_own_there_are_seeds():
    """Which may make images of another size."""
    regularizer = InputRegularizer(DiffAugment(), nn.AvgPool2d(2), strong_noise())
    x = images()
    params = regularizer.sample(x)
    assert params.noise.normals is None
    y = regularizer(x, params=params)
    assert y.shape == (4, 3, 4, 4)
    assert torch.equal(regularizer(x, params=params), y)


def test_normals_that_do_not_fit():
    noise, x = strong_noise(), images()
    params = noise.sample(x)
    with pytest.raises(ValueError, match=r"params.normals has shape \[4, 3, 8, 8\]; this input needs \[4, 3, 4, 4\]"):
        noise(images(size=4), params=params)
    ones = torch.ones(4)
    with pytest.raises(ValueError, match=r"params.normals has shape \[4, 3, 4, 4\]; this input needs \[4, 3, 8, 8\]"):
        input_transform(x, TransformParams(noise_std=ones, normals=images(size=4)))
    with pytest.raises(ValueError, match=r"seed and params\.normals are both given"):
        input_transform(x, TransformParams(noise_std=ones, seed=ones.long(), normals=x))
    with pytest.raises(ValueError, match="belong together"):
        input_transform(x, TransformParams(normals=x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_trace_draws_normals_of_its_own():
    D = nn.Sequential(DiffAugment("color"), strong_noise())
    x = images()
    traced = torch.jit.trace(D, x, check_trace=False)
    torch.manual_seed(1)
    first = traced(x)
    torch.manual_seed(1)
    assert torch.equal(D(x), first)
    assert not torch.equal(traced(x), first)


def test_vmap_draws_for_each():
    noise = strong_noise()
    x = torch.zeros(5, 4, 3, 2, 2)
    y = torch.func.vmap(noise, randomness="different")(x)
    assert len(y.flatten(1).unique(dim=0)) == 5
    y = torch.func.vmap(noise, randomness="same")(x)
    assert len(y.flatten(1).unique(dim=0)) == 1
