"""InputRegularizer, and wrap: the discriminator behind it stays the discriminator that it was."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, InputRegularizer, wrap
from gan_regularizers.benchmark.baseline import official_sequence
from gan_regularizers.diffaugment import POLICIES
from gan_regularizers.ops import TransformParams
from gan_regularizers.ops.philox import philox_normal


class Critic(nn.Module):
    """A small D that keeps what it was given; every parameter takes part in its input gradient."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Conv2d(4, 1, 3, bias=False)
        self.resolution = 8

    def forward(self, images, labels=None, scale=1.0):
        self.seen = images
        hidden = nn.functional.silu(self.norm(self.convolution(images)))
        logits = self.head(nn.functional.silu(hidden)).mean((1, 2, 3)) * scale
        return logits if labels is None else logits + labels

    def features(self, x):
        return self.convolution(x)


class TimedCritic(Critic):
    def forward(self, images, t, labels=None):
        self.told = t
        return super().forward(images, labels)


class DeepCopied(Critic):
    """Copies itself in its own way, as modules of some repositories do."""

    def __deepcopy__(self, memo):
        copied = DeepCopied()
        copied.load_state_dict(self.state_dict())
        return copied


def regularizers(**settings) -> tuple[DiffAugment, DiffusionNoise]:
    return DiffAugment(), DiffusionNoise(100, noise_std=0.5, **settings)


def images(n: int = 4, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(n, channels, 8, 6, dtype=torch.float64) * 2 - 1).to(dtype)


def output(D: nn.Module, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """D's answer to x under one fixed draw."""
    torch.manual_seed(11)
    return D(x, *args, **kwargs)


@given(
    st.lists(st.sampled_from(POLICIES), max_size=4),
    st.sampled_from(("none", "per sample", "per channel")),
    st.sampled_from((torch.float32, torch.float64, torch.bfloat16)),
    st.integers(0, 3),
)
def test_one_pass_equals_noise_of_augment(names, noise_kind, dtype, n):
    x = images(n, dtype=dtype)
    aug = DiffAugment(",".join(names))
    noise = None if noise_kind == "none" else DiffusionNoise(100, per_channel=noise_kind == "per channel")
    regularizer = InputRegularizer(aug, noise)
    params = regularizer.sample(x)
    y, t = regularizer(x, params=params, return_t=True)
    expected = aug(x, params=params.augment) if names else x
    if noise is not None:
        expected = noise(expected, params=params.noise)
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=2 * tolerance if dtype == torch.bfloat16 else 1e-6)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert y.isfinite().all()
    assert torch.equal(t, params.noise.t if noise is not None else torch.zeros(n, dtype=torch.int64))


def test_replay_generator_and_given_steps():
    regularizer, x = InputRegularizer(*regularizers()), images()
    before = torch.get_rng_state()
    y = regularizer(x, generator=torch.Generator().manual_seed(1))
    params = regularizer.sample(x, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(regularizer(x, params=params), y)
    assert torch.equal(regularizer(x, 7, return_t=True)[1], torch.full((4,), 7))
    with pytest.raises(ValueError, match=r"\bt=101 is outside"):
        regularizer(x, 101)


@pytest.mark.parametrize("per_channel", [False, True])
def test_disabled_returns_the_input_itself(per_channel):
    regularizer, x = InputRegularizer(*regularizers(per_channel=per_channel)), images()
    params, (_, t) = regularizer.sample(x), regularizer(x, return_t=True)
    regularizer.enabled = False
    y, no_t = regularizer(x, return_t=True)
    assert y is x
    assert torch.equal(no_t, torch.zeros_like(t))
    assert regularizer(x, params=params) is x
    regularizer.enabled = True
    regularizer.augment.enabled = regularizer.noise.enabled = False
    assert regularizer(x) is x
    assert InputRegularizer()(x) is x


@pytest.mark.parametrize(("part", "value"), [("augment", nn.Identity()), ("noise", DiffAugment()), ("augment", 3)])
def test_parts_of_another_type(part, value):
    with pytest.raises(TypeError, match=f"{part} is a {type(value).__name__}"):
        InputRegularizer(**{part: value})


def test_r1_gradients_equal_those_through_the_sequence():
    """The penalty's gradient reaches every parameter of D, through the raw images, and is right."""
    D = Critic().double()
    D.head.weight.data.mul_(10)
    wrapped, x = wrap(D, *regularizers(clean_share=0.25)), images(dtype=torch.float64)
    torch.manual_seed(11)
    params = wrapped.input_regularizer.sample(x)
    noise = philox_normal(params.noise.seed, x[0].numel(), torch.float64).view(x.shape)
    (augment,) = params.augment

    def through_the_sequence(x: torch.Tensor) -> torch.Tensor:
        y = official_sequence(x, augment, cutout_size=(4, 3))
        return D(official_sequence(y, TransformParams(gain=params.noise.gain, noise_std=params.noise.noise_std), noise))

    def r1_gradients(discriminator) -> tuple[torch.Tensor, ...]:
        raw = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(raw).sum(), raw, create_graph=True)
        D.zero_grad()
        gradient.square().sum((1, 2, 3)).mean().backward()
        return tuple(parameter.grad.clone() for parameter in D.parameters())

    torch.testing.assert_close(output(wrapped, x), through_the_sequence(x), rtol=1e-10, atol=1e-12)
    actual, expected = r1_gradients(lambda raw: output(wrapped, raw)), r1_gradients(through_the_sequence)
    assert len(actual) == len(list(D.parameters()))
    assert all(gradient.abs().max() > 1e-6 for gradient in expected)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_gradients_of_first_and_second_order():
    regularizer, x = InputRegularizer(*regularizers()), images(2, dtype=torch.float64)[:, :, :4, :3].requires_grad_()
    params = regularizer.sample(x)
    assert torch.autograd.gradcheck(lambda x: regularizer(x, params=params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: regularizer(x, params=params), (x,))


def test_no_gradient_for_parameters():
    regularizer, x = InputRegularizer(*regularizers()), images()
    params = regularizer.sample(x)
    params.augment[0].contrast.requires_grad_()
    with pytest.raises(ValueError, match=r"params\.contrast requires a gradient"):
        regularizer(x, params=params)


def test_arguments_pass_through():
    D, x, labels = Critic(), images(), torch.arange(4.0)
    wrapped = wrap(D, *regularizers())
    expected = output(wrapped, x)
    assert not torch.equal(D.seen, x)
    assert torch.equal(D(D.seen), expected)
    for actual in (
        output(wrapped, x, labels, 2.0),
        output(wrapped, x, labels, scale=2.0),
        output(wrapped, x, scale=2.0, labels=labels),
    ):
        torch.testing.assert_close(actual, 2 * expected + labels)
    torch.manual_seed(11)
    assert torch.equal(wrapped(images=x), expected)
    with pytest.raises(TypeError, match="D got no input; pass the batch as the first argument or as images="):
        wrapped(labels=labels)
    wrapped.input_regularizer.enabled = False
    assert torch.equal(wrapped(x), D(x))


def test_attributes_pass_through():
    D = Critic()
    wrapped = wrap(D, *regularizers())
    assert wrapped.resolution == 8
    assert wrapped.convolution is D.convolution
    assert torch.equal(wrapped.features(torch.ones(1, 3, 4, 4)), D.convolution(torch.ones(1, 3, 4, 4)))
    wrapped.resolution = 16
    wrapped.head = nn.Conv2d(4, 1, 1)
    wrapped.note = "new"
    assert D.resolution == 16
    assert D.head is wrapped.head
    assert D.head.weight.shape[-1] == 1
    assert wrapped.note == "new"
    assert wrapped.discriminator is D
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = wrapped.nothing_like_it


def test_modes_and_dtypes_reach_d():
    D = Critic()
    wrapped = wrap(D, *regularizers())
    assert not wrapped.eval().discriminator.training
    assert not D.norm.training
    assert wrapped.train().norm.training
    for dtype in (torch.bfloat16, torch.float64):
        assert wrapped.to(dtype)(images(dtype=dtype)).dtype == dtype
        assert D.seen.dtype == dtype
        assert wrapped.input_regularizer.noise.gain.dtype == torch.float32
    wrapped.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in D.parameters())


def test_regularizers_move_to_the_device_of_d():
    noise = DiffusionNoise()
    wrap(nn.Conv2d(3, 1, 3, device="meta"), DiffAugment(), noise)
    assert {buffer.device.type for buffer in noise.buffers()} == {"meta"}


def test_sequential_discriminator():
    D = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 1))
    wrapped, x = wrap(D, DiffAugment("translation")), images()
    assert output(wrapped, x).shape == (4, 1)
    torch.manual_seed(11)
    assert torch.equal(wrapped(input=x), output(wrapped, x))
    wrapped.load_state_dict(D.state_dict())


def test_discriminator_without_images():
    """Noise alone takes points, features, audio and the like."""
    wrapped = wrap(nn.Linear(2, 1), DiffusionNoise(100))
    assert wrapped(torch.randn(5, 2)).shape == (5, 1)


def test_discriminator_is_told_t():
    D, x = TimedCritic(), images(16)
    wrapped = wrap(D, *regularizers())
    wrapped(x)
    assert D.told.shape == (16,)
    assert D.told.unique().numel() > 2
    given = torch.arange(16)
    for call in (lambda: wrapped(x, t=given), lambda: wrapped(x, given), lambda: wrapped(images=x, t=given)):
        call()
        assert torch.equal(D.told, given)
    wrapped(x, 0)
    assert torch.equal(D.told, torch.zeros(16, dtype=torch.int64))
    wrapped.input_regularizer.augment.enabled = False
    wrapped(x, t=given)
    assert torch.equal((D.seen != x).flatten(1).any(1), given > 0)
    wrapped.input_regularizer.enabled = False
    wrapped(x, t=given)
    assert torch.equal(D.told, torch.zeros(16, dtype=torch.int64))


def test_t_is_left_alone_without_noise():
    """Then it means something else to D, or another module has already diffused the batch."""
    D, x = TimedCritic(), images()
    wrapped = wrap(D, DiffAugment())
    wrapped(x, t="a word")
    assert D.told == "a word"
    wrapped(x, "another")
    assert D.told == "another"
    wrapped(x)
    assert torch.equal(D.told, torch.zeros(4, dtype=torch.int64))


def test_t_by_keyword_only():
    class Keyword(Critic):
        def forward(self, images, *labels, t=None):
            self.told = t
            return super().forward(images) + sum(labels)

    D = Keyword()
    wrap(D, DiffusionNoise(100))(images(), torch.ones(4), torch.ones(4))
    assert D.told.dtype == torch.int64


def test_t_argument_of_another_name():
    class Scaled(Critic):
        def forward(self, images, labels=None, scale=None):
            self.told = scale
            return super().forward(images, labels)

    D = Scaled()
    wrap(D, DiffusionNoise(100), t_argument="scale")(images())
    assert D.told.shape == (4,)
    wrap(D, DiffusionNoise(100), t_argument=None)(images())
    assert D.told is None
    wrap(D, DiffusionNoise(100))(images())
    assert D.told is None


def test_state_dict_has_the_keys_of_d():
    D = Critic()
    wrapped = wrap(D, *regularizers())
    wrapped.input_regularizer.noise.set_p(0.3)
    state = wrapped.state_dict()
    added = {f"input_regularizer.noise.{name}" for name in ("p", "T", "t_list", "redraws")}
    assert set(state) == set(D.state_dict()) | added
    Critic().load_state_dict({name: value for name, value in state.items() if name not in added})

    loaded = wrap(Critic(), *regularizers())
    loaded.load_state_dict(state)
    assert int(loaded.input_regularizer.noise.T) == int(wrapped.input_regularizer.noise.T) < 100
    assert torch.equal(output(loaded, x := images()), output(wrapped, x))


def test_old_checkpoint_of_the_bare_discriminator():
    D, x = Critic(), images()
    wrapped = wrap(Critic(), *regularizers())
    missing, unexpected = wrapped.load_state_dict(D.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.startswith("input_regularizer.") for key in missing)
    wrapped.input_regularizer.enabled = False
    assert torch.equal(wrapped(x), D(x))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stray"):
        wrapped.load_state_dict({**wrapped.state_dict(), "stray": torch.zeros(1)})


def test_state_dict_inside_a_parent():
    def parent() -> nn.ModuleDict:
        return nn.ModuleDict({"G": nn.Linear(2, 2), "D": wrap(Critic(), *regularizers()), "plain": Critic()})

    first, second = parent(), parent()
    state = first.state_dict()
    assert "D.head.weight" in state
    assert not any("discriminator" in key for key in state)
    assert state["D.head.weight"] is not state["plain.head.weight"]
    second.load_state_dict(state)
    for (name, value), (_, expected) in zip(second.state_dict().items(), state.items(), strict=True):
        assert torch.equal(value, expected), name
    assert len(state._metadata) == len(list(first.named_modules()))


def test_discriminator_with_a_part_called_discriminator():
    """Such as a hinge around another network; its parameters may also share names with the outer ones."""

    def build() -> nn.Module:
        D = nn.Linear(3, 1)
        D.discriminator = nn.Linear(3, 1)
        return D

    D = build()
    wrapped, loaded = wrap(D, DiffusionNoise(10)), wrap(build(), DiffusionNoise(10))
    assert set(D.state_dict()) < set(wrapped.state_dict())
    loaded.load_state_dict(wrapped.state_dict())
    for name, expected in D.state_dict().items():
        assert torch.equal(loaded.discriminator.state_dict()[name], expected), name


def saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", [Critic, DeepCopied])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies(copied, kind):
    wrapped, x = wrap(kind(), *regularizers()), images()
    other = copied(wrapped)
    assert type(other) is type(wrapped)
    assert torch.equal(output(other, x), output(wrapped, x))
    other.input_regularizer.noise.set_p(0.1)
    other.head.weight.data.zero_()
    assert int(wrapped.input_regularizer.noise.T) == 100
    assert wrapped.head.weight.any()


def test_adapting_the_wrapped_noise():
    """The controller moves the module that D's own state_dict saves."""
    aug, noise = regularizers()
    wrapped = wrap(Critic(), aug, noise)
    adapt = AdaptiveT(noise, interval=1, kimg=0.1)
    adapt.observe(wrapped(images()).abs() + 1)
    adapt.step(50)
    assert float(wrapped.state_dict()["input_regularizer.noise.p"]) == 0.5
    resumed = wrap(Critic(), *regularizers())
    resumed.load_state_dict(wrapped.state_dict())
    assert float(AdaptiveT(resumed.input_regularizer.noise).p) == 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x: x, DiffAugment()), TypeError, "D is a function; wrap takes the discriminator"),
        ((Critic(),), ValueError, "wrap got no regularizer"),
        ((Critic(), Critic()), TypeError, "wrap got a Critic; it takes a DiffAugment"),
        ((Critic(), None), TypeError, "wrap got a NoneType"),
        ((Critic(), DiffAugment(), DiffAugment()), ValueError, "two modules of type DiffAugment"),
        ((Critic(), DiffusionNoise(), DiffusionNoise()), ValueError, "two modules of type DiffusionNoise"),
        ((Critic(), InputRegularizer(), DiffAugment()), TypeError, "wrap got a InputRegularizer"),
        ((wrap(Critic(), DiffAugment()), DiffAugment()), ValueError, "D, a RegularizedDiscriminator, is wrapped"),
        ((nn.Sequential(wrap(Critic(), DiffAugment())), DiffAugment()), ValueError, "D, a Sequential, is wrapped"),
    ],
)
def test_what_cannot_be_wrapped(arguments, error, message):
    with pytest.raises(error, match=message):
        wrap(*arguments)


@pytest.mark.parametrize("outer", [nn.DataParallel, lambda D: torch.compile(D, backend="eager")])
def test_what_runs_a_discriminator_is_put_around_the_wrapped_one(outer):
    D = nn.Conv2d(3, 1, 3)
    with pytest.raises(ValueError, match="wrap the discriminator first"):
        wrap(outer(D), DiffAugment())
    assert outer(wrap(D, DiffAugment()))(torch.zeros(2, 3, 8, 8)).shape == (2, 1, 6, 6)


def test_order_of_the_regularizers_does_not_matter():
    D, (aug, noise) = Critic(), regularizers()
    first, second = wrap(D, noise, aug), wrap(D, InputRegularizer(aug, noise))
    assert torch.equal(output(first, x := images()), output(second, x))


class OnTheDeviceOnly(TorchDispatchMode):
    """Fails on anything that reads the device back, or that brings a tensor to it or from it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert function not in (
            torch.ops.aten._local_scalar_dense.default,  # .item()
            torch.ops.aten.nonzero.default,
            torch.ops.aten.lift_fresh.default,  # torch.tensor(...)
        ), function
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device.type == self.device, (function, value.device)
        return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("per_channel", "enabled"), [(False, True), (True, True), (False, False)])
def test_forward_never_leaves_the_device(device, per_channel, enabled):
    """The meta device shows transfers and has no data to read back; the CPU shows tensors made of Python numbers."""
    wrapped = wrap(Critic(), *regularizers(per_channel=per_channel)).to(device)
    wrapped.input_regularizer.enabled = enabled
    adapt = AdaptiveT(DiffusionNoise(100))
    x = torch.zeros(4, 3, 8, 6, device=device)
    adapt.observe(wrapped(x))  # its sums move to the device once
    with OnTheDeviceOnly(device):
        logits = wrapped(x.requires_grad_())
        wrapped.input_regularizer(x, return_t=True)
        adapt.observe(logits)
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("device", "action"),
    [
        ("cpu", lambda x: x.sum().item()),
        ("cpu", lambda x: x + torch.tensor([1.0])),
        ("meta", lambda x: x + torch.zeros(1).to(x.device)),
    ],
)
def test_leaving_the_device_is_noticed(device, action):
    with pytest.raises(AssertionError), OnTheDeviceOnly(device):
        action(torch.zeros(1, device=device))
