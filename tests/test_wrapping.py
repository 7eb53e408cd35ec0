"""wrap: a discriminator with regularizers before it stays the discriminator that it was."""

import copy
import io
import pickle
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan_regularizers import (
    AdaptiveT,
    DiffAugment,
    DiffusionNoise,
    InputRegularizer,
    WrapWarning,
    regularizer_of,
    same_draw,
    unwrap,
    wrap,
)
from gan_regularizers.commands.bench.baseline import official_sequence
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


def told_nothing(D: nn.Module, **settings) -> nn.Module:
    return wrap(D, *regularizers(**settings), tell="nothing")


def images(n: int = 4, channels: int = 3, dtype: torch.dtype = torch.float32, size: tuple = (8, 6)) -> torch.Tensor:
    return (torch.rand(n, channels, *size, dtype=torch.float64) * 2 - 1).to(dtype)


def output(D: nn.Module, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """D's answer to x under one fixed draw."""
    torch.manual_seed(11)
    return D(x, *args, **kwargs)


def test_r1_gradients_equal_those_through_the_sequence():
    """The penalty's gradient reaches every parameter of D, through the raw images, and is right."""
    D = Critic().double()
    D.head.weight.data.mul_(10)
    wrapped, x = told_nothing(D, clean_share=0.25), images(dtype=torch.float64)
    torch.manual_seed(11)
    params = regularizer_of(wrapped).sample(x)
    noise = philox_normal(params.noise.seed, x[0].numel(), torch.float64).view(x.shape)
    (augment,) = params.augment

    def through_the_sequence(x: torch.Tensor) -> torch.Tensor:
        y = official_sequence(x, augment, cutout_size=(4, 3))
        y = official_sequence(y, TransformParams(gain=params.noise.gain, noise_std=params.noise.noise_std), noise)
        with regularizer_of(D).off():
            return D(y)

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


def test_d_stays_d():
    D, bare = Critic(), Critic()
    bare.load_state_dict(D.state_dict())
    before = {**D.__dict__}
    wrapped = told_nothing(D)
    assert wrapped is D
    assert type(D) is Critic
    assert {name: value for name, value in D.__dict__.items() if "hook" not in name} == {
        name: value for name, value in before.items() if "hook" not in name
    }
    for listed in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [name for name, _ in getattr(D, listed)()] == [name for name, _ in getattr(bare, listed)()]
    assert D.state_dict().keys() == bare.state_dict().keys()
    x = images()
    assert not torch.equal(output(D, x), bare(x))
    D.load_state_dict(bare.state_dict())
    bare.load_state_dict(D.state_dict())


def test_unwrap_leaves_nothing():
    for tell in ("nothing", "scale-shift"):
        D, bare = Critic(), Critic()
        bare.load_state_dict(D.state_dict())
        assert unwrap(wrap(D, *regularizers(), tell=tell)) is D
        assert str(D) == str(bare)
        for (name, module), (_, other) in zip(D.named_modules(), bare.named_modules(), strict=True):
            assert module.__dict__.keys() == other.__dict__.keys(), name
            assert not any(value for key, value in module.__dict__.items() if "hook" in key), name
        assert torch.equal(D(x := images()), bare(x))
        with pytest.raises(ValueError, match=r"D, a Critic, is not wrapped; call wrap\(D, ...\) first"):
            unwrap(D)


def test_the_regularizer_is_reached_and_switched_off():
    D, x = told_nothing(Critic()), images()
    regularizer = regularizer_of(D)
    assert isinstance(regularizer, InputRegularizer)
    assert regularizer_of(nn.DataParallel(D)) is regularizer
    assert regularizer_of(torch.compile(nn.DataParallel(D), backend="eager")) is regularizer
    with regularizer.off():
        D(x)
        assert D.seen is x
    D(x)
    assert not torch.equal(D.seen, x)
    for other in (Critic(), None):
        with pytest.raises(ValueError, match="is not wrapped"):
            regularizer_of(other)


def test_arguments_pass_through():
    D, x, labels = told_nothing(Critic()), images(), torch.arange(4.0)
    expected = output(D, x)
    with regularizer_of(D).off():
        assert torch.equal(D(D.seen), expected)
    for actual in (
        output(D, x, labels, 2.0),
        output(D, x, labels, scale=2.0),
        output(D, x, scale=2.0, labels=labels),
    ):
        torch.testing.assert_close(actual, 2 * expected + labels)
    torch.manual_seed(11)
    assert torch.equal(D(images=x), expected)
    with pytest.raises(TypeError, match="Critic got no input; pass the batch as the first argument or as images="):
        D(labels=labels)


def test_modes_and_dtypes():
    D = told_nothing(Critic())
    for dtype in (torch.bfloat16, torch.float64):
        assert D.to(dtype)(images(dtype=dtype)).dtype == dtype
        assert D.seen.dtype == dtype
        assert regularizer_of(D).noise.gain.dtype == torch.float32
    D.eval()
    D(x := images(dtype=torch.float64))
    assert not torch.equal(D.seen, x)
    D.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in D.parameters())


def test_the_regularizer_follows_the_input_to_its_device():
    """Wherever D was when it was wrapped; two D on two devices may share one."""
    regularizer = InputRegularizer(*regularizers())
    here, there = Critic(), Critic()
    for D in (here, there):
        wrap(D, regularizer, tell="nothing")
    there.to("meta")
    for _ in range(2):
        assert here(images()).device.type == "cpu"
        assert there(images().to("meta")).is_meta
        regularizer.noise.set_p(0.5)


def test_discriminators_of_other_kinds():
    D, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 1)), images()
    wrap(D, DiffAugment("translation"))
    assert output(D, x).shape == (4, 1)
    assert [type(child) for child in D] == [nn.Flatten, nn.Linear]
    torch.manual_seed(11)
    assert torch.equal(D(input=x), output(D, x))
    assert wrap(nn.Linear(2, 1), DiffusionNoise(100), tell="nothing")(torch.randn(5, 2)).shape == (5, 1)

    class Keywords(nn.Module):
        def forward(self, *, image, **_):
            return image

    class Anything(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    assert not torch.equal(wrap(Keywords(), DiffAugment())(image=x, other=1), x)
    (y, label), _ = wrap(Anything(), DiffAugment())(x, "label")
    assert not torch.equal(y, x)
    assert label == "label"
    (label, y), _ = wrap(Anything(), DiffAugment(), inputs=1)("label", x)
    assert not torch.equal(y, x)
    _, given = wrap(Anything(), DiffAugment(), inputs="x")(x=x)
    assert not torch.equal(given["x"], x)


class Pair(nn.Module):
    def forward(self, real, fake=None, *, mask=None):
        self.seen = real, fake, mask
        return torch.zeros(())


def test_two_arguments_that_look_like_images():
    """One of them would be regularised and the other not, which trains something else."""
    D, x = wrap(Pair(), DiffAugment()), images()
    D(x)
    D(x, torch.ones(4, 10), mask=torch.ones(4, 1, 8, 6, dtype=torch.bool))
    bank = images(2)
    D(x, bank)  # of another number of samples, so it is no second image of these
    assert D.seen[1] is bank
    for call in (lambda: D(x, -x), lambda: D(x, mask=x[:, :1])):
        with pytest.raises(
            ValueError,
            match=r"Pair got real and (fake|mask), and both look like images; .* inputs='(fake|mask)' for one alone",
        ):
            call()
    unwrap(D)
    wrap(D, DiffAugment(), inputs="real")(x, x)
    assert torch.equal(D.seen[1], x)
    assert not torch.equal(D.seen[0], x)
    unwrap(D)
    wrap(D, *regularizers(clean_share=0.0), tell="nothing", inputs=("real", 1))(x, x)
    assert torch.equal(D.seen[0], D.seen[1])
    assert not torch.equal(D.seen[0], x)
    D(x)
    assert D.seen[1] is None


Views = namedtuple("Views", "image label")


def test_images_inside_of_arguments():
    D, x, small = Pair(), images(size=(16, 16)), images(size=(8, 8))
    given = {"image": x, "image_raw": small, "camera": torch.ones(4, 25), "step": 3}
    wrap(D, DiffAugment())(given)
    assert list(D.seen[0]) == list(given)
    assert given["image"] is x
    for name, changes in (("image", True), ("image_raw", True), ("camera", False), ("step", False)):
        assert (D.seen[0][name] is not given[name]) is changes
    unwrap(D)
    wrap(D, DiffAugment(), inputs="real[image_raw]")(given)
    assert D.seen[0]["image"] is x
    assert D.seen[0]["image_raw"] is not small
    with pytest.raises(TypeError, match=r"D got no real\[image_raw\]: there is no 'image_raw' in a dict"):
        D({"image": x})
    unwrap(D)
    wrap(D, DiffAugment(), inputs=("real[1][0]", "fake"))((x, [x, small]), Views(x, "label"))
    real, fake = D.seen[:2]
    assert real[0] is x
    assert real[1][1] is small
    assert isinstance(fake, Views)
    assert fake.label == "label"
    assert torch.equal(real[1][0], fake.image)
    assert not torch.equal(fake.image, x)


def test_images_of_a_call_share_one_draw():
    """The same shifts in proportion to the size, the same colours, the same t."""
    D = wrap(
        Pair(), DiffAugment("color,translation"), DiffusionNoise(100, noise_std=0.0), inputs="real", tell="nothing"
    )
    flat = torch.full((64, 1, 64, 64), 0.5)
    with same_draw(D) as draw:
        D([flat, flat[..., :16, :16]])
    big, small = draw.calls[0].params
    assert torch.equal(big.augment[0].brightness, small.augment[0].brightness)
    assert torch.equal(big.noise.t, small.noise.t)
    assert (big.augment[0].shift / 4 - small.augment[0].shift).abs().max() <= 1
    assert big.augment[0].shift.unique().numel() > 10
    large, little = D.seen[0]
    assert torch.equal(large[:, 0, 32, 32], little[:, 0, 8, 8])


def test_d_is_told_the_t_of_its_first_image():
    """Where the batches of a call differ in size."""

    class Uneven(nn.Module):
        def forward(self, x, crops, t):
            self.told = t
            return x.sum((1, 2, 3)), crops.sum((1, 2, 3))

    D = wrap(Uneven(), DiffusionNoise(100), inputs=("x", "crops"))
    for sizes in ((4, 8), (8, 4)):
        D(*map(images, sizes))
        assert len(D.told) == sizes[0]


def test_calls_share_one_draw():
    """Features of a fake and of its own real image are compared; those of equal images are equal."""
    D, x = told_nothing(Critic(), clean_share=0.0), images(16)
    with same_draw(D) as draw:
        first, second, fewer = D(x), D(x), D(x[:7])
    assert torch.equal(first, second)
    assert fewer.shape == (7,)
    assert not torch.equal(D(x), first)
    assert [len(call.t) for call in draw.calls] == [16, 16, 7]
    call = draw.calls[1]
    assert torch.equal(call.images[0], regularizer_of(D)(x, params=call.params[0]))
    assert torch.equal(call.params[0].noise.t, call.t)
    with regularizer_of(D).off(), same_draw(D) as draw:
        D(x)
    assert draw.calls[0].images[0] is x
    assert not draw.calls[0].t.any()
    with same_draw(D), pytest.raises(RuntimeError, match="inside another same_draw"), same_draw(D):
        pass
    with pytest.raises(KeyError), same_draw(D):
        raise KeyError
    assert not torch.equal(D(x), D(x))


class Flip(nn.Module):
    """An augmentation of the user's own, which draws from torch's generator."""

    def forward(self, x):
        return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def test_own_augmentations_share_the_draw_too():
    D, x = wrap(Pair(), Flip(), DiffAugment("translation"), Flip(), inputs=("real", "fake")), images(64)
    D(x, x)
    assert torch.equal(*D.seen[:2])
    assert not torch.equal(D.seen[0], x)
    with same_draw(D):
        D(x, x)
        before, state = D.seen[0], torch.get_rng_state()
        D(x)
        assert torch.equal(D.seen[0], before)
    torch.set_rng_state(state)
    D(x)
    assert not torch.equal(D.seen[0], before)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ("picture", ValueError, "inputs='picture' is no parameter of Pair.forward; it has real, fake, mask"),
        (3, ValueError, "inputs=3 is no parameter"),
        (-1, ValueError, "inputs=-1 is no parameter"),
        ("real[", ValueError, r"inputs='real\[' is no name of a parameter, nor a place such as"),
        ((), ValueError, "inputs is empty"),
        (("real", 0.5), TypeError, "inputs has 0.5; names of D's parameters"),
    ],
)
def test_inputs_that_d_does_not_have(inputs, error, message):
    with pytest.raises(error, match=message):
        wrap(Pair(), DiffAugment(), inputs=inputs)


def test_a_vector_before_the_image():
    """As in a D of latents and images: the first argument is no image, and another one is."""

    class Joint(nn.Module):
        def forward(self, z, image):
            return z.sum() + image.sum()

    D = wrap(Joint(), DiffusionNoise(10), tell="nothing")
    for z in (torch.randn(4, 16), torch.randn(4, 7, 16)):
        with pytest.raises(
            ValueError, match=r"Joint got z and image, and (both look|the latter looks) like images; .* inputs='image'"
        ):
            D(z, images())


@pytest.mark.parametrize("inputs", [("real", 0), ("real", "real[a]"), ("real[a]", "real[a][b]")])
def test_inputs_that_are_one_place(inputs):
    with pytest.raises(ValueError, match="one place twice; an image is regularised once"):
        wrap(Pair(), DiffAugment(), inputs=inputs)


def test_inputs_that_a_call_leaves_out():
    D = wrap(Pair(), DiffAugment(), inputs="fake")
    with pytest.raises(TypeError, match="Pair got none of its inputs fake="):
        D(images())
    with pytest.raises(TypeError, match="fake is a list without a floating-point tensor"):
        D(images(), [])


def test_d_is_told_t_by_its_parameter():
    D, x = TimedCritic(), images(16)
    wrap(D, *regularizers())
    D(x)
    assert D.told.shape == (16,)
    assert D.told.unique().numel() > 2
    D(x, None)
    assert D.told.unique().numel() > 2
    with regularizer_of(D).off():
        D(x)
    assert torch.equal(D.told, torch.zeros(16, dtype=torch.int64))


def test_a_t_of_the_caller_is_the_caller_s():
    """The step of a denoising GAN, a text, a label: nothing of it is the noise's."""
    D, x = TimedCritic(), images(64)
    wrap(D, *regularizers(clean_share=0.0))
    with pytest.warns(WrapWarning, match="TimedCritic is passed a t of its own, so it is not told how far") as caught:
        D(x, "a word")
    assert len(caught) == 1
    for given in (torch.zeros(64, dtype=torch.int64), "a word", torch.randn(64, 16)):
        for call in (lambda t: D(x, t), lambda t: D(x, t=t), lambda t: D(images=x, t=t)):
            call(given)
            assert D.told is given
            assert (D.seen != x).flatten(1).any(1).all()
    unwrap(D)
    wrap(D, DiffAugment())
    D(x, t="a word")
    assert D.told == "a word"


def test_t_argument_gives_the_noise_its_t():
    D, x, given = TimedCritic(), images(16), torch.arange(16)
    wrap(D, DiffusionNoise(100, noise_std=0.5), t_argument="t")
    for call in (lambda: D(x, t=given), lambda: D(x, given), lambda: D(images=x, t=given)):
        call()
        assert torch.equal(D.told, given)
        assert torch.equal((D.seen != x).flatten(1).any(1), given > 0)
    D(x, 0)
    assert torch.equal(D.told, torch.zeros(16, dtype=torch.int64))
    assert torch.equal(D.seen, x)
    D(x)
    assert D.told.unique().numel() > 2

    class Scaled(Critic):
        def forward(self, images, labels=None, scale=None):
            self.told = scale
            return super().forward(images, labels)

    D = wrap(Scaled(), DiffusionNoise(100), t_argument="scale")
    D(x)
    assert D.told.shape == (16,)
    with pytest.raises(ValueError, match=r"t_argument='step' is no parameter of Scaled\.forward"):
        wrap(Scaled(), DiffusionNoise(100), t_argument="step")


def test_t_by_keyword_or_by_position_only():
    class Keyword(Critic):
        def forward(self, images, *labels, t=None):
            self.told = t
            return super().forward(images) + sum(labels)

    class Position(Critic):
        def forward(self, images, t, /):
            self.told = t
            return super().forward(images)

    D = wrap(Keyword(), DiffusionNoise(100))
    D(images(), torch.ones(4), torch.ones(4))
    assert D.told.dtype == torch.int64
    D = wrap(Position(), DiffusionNoise(100))
    D(images())
    assert D.told.dtype == torch.int64


def test_a_noise_of_which_d_is_told_nothing():
    with pytest.warns(WrapWarning, match=r"Critic is not told how far .* tell='scale-shift'\).*") as caught:
        wrap(Critic(), DiffusionNoise(100))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    D = wrap(TimedCritic(), DiffusionNoise(100), tell="nothing")
    D(images(), t=None)
    assert D.told is None
    wrap(Critic(), DiffAugment())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tell": "all"}, "tell='all' is neither 'scale-shift' nor 'nothing' nor the name of a layer of Critic"),
        ({"tell": ("head", "norm.x")}, r"tell='norm\.x' is neither"),
        ({"tell": "nothing", "t_argument": "scale"}, "tell='nothing' and t_argument='scale' are both given"),
    ],
)
def test_bad_ways_to_tell(settings, message):
    with pytest.raises(ValueError, match=message):
        wrap(Critic(), DiffusionNoise(100), **settings)
    with pytest.raises(ValueError, match="tell='scale-shift' tells D the t of a DiffusionNoise; there is none"):
        wrap(Critic(), DiffAugment(), tell="scale-shift")
    with pytest.raises(ValueError, match="one t per sample; the noise has one per channel"):
        wrap(Critic(), DiffusionNoise(100, per_channel=True), tell="scale-shift")
    with pytest.raises(ValueError, match="no layer of Identity has weights"):
        wrap(nn.Identity(), DiffusionNoise(100), tell="scale-shift")


@pytest.mark.parametrize(
    ("D", "x"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.LeakyReLU(0.2), nn.Linear(5, 1)), images(8)),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(120, 1)), images(8)),
        (nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 5, 3)), nn.Flatten()), images(8)),
        (nn.Conv1d(1, 5, 3), torch.randn(8, 1, 20)),
        (nn.Linear(2, 1), torch.randn(8, 2)),
        (nn.ConvTranspose2d(3, 4, 3, groups=1), images(8)),
    ],
    ids=["features", "images", "spectral norm", "audio", "a layer alone", "transposed"],
)
def test_scale_and_shift_by_t(D, x):
    """At first D is what it was; then it may answer differently to the same images of other t."""
    D = D.double().eval()
    bare, x = copy.deepcopy(D), x.double()
    wrap(D, noise := DiffusionNoise(100, noise_std=0.5, clean_share=0.25), tell="scale-shift")
    added = [name for name, _ in D.named_parameters() if "scale_shift" in name]
    assert len(added) == 4
    assert [name for name, _ in D.named_parameters() if name not in added] == [n for n, _ in bare.named_parameters()]
    torch.manual_seed(3)
    y, t = noise(x, return_t=True)
    torch.manual_seed(3)
    assert torch.equal(D(x), bare(y))
    scale_shift = next(module for name, module in D.named_modules() if name.endswith("scale_shift"))
    optimizer = torch.optim.SGD([scale_shift.modulate_weight, scale_shift.modulate_bias], lr=1.0)
    D(x).square().sum().backward()
    optimizer.step()
    torch.manual_seed(3)
    changed = (D(x) != bare(y)).flatten(1).any(1)
    assert changed.all()
    noise.enabled = False
    (clean,), zero = {tuple(row.flatten().tolist()) for row in D(x[:1].expand_as(x))}, D(x)[0]
    assert torch.equal(torch.tensor(clean, dtype=x.dtype), zero.flatten())
    noise.enabled = True
    assert len({tuple(row.flatten().tolist()) for row in D(x[:1].expand_as(x))}) > 1
    assert t.unique().numel() > 1


def test_scale_and_shift_of_patches():
    """A linear layer has its channels last."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = x.flatten(2).transpose(1, 2)
            self.h = self.embed(self.seen)
            return self.h.sum((1, 2))

    D = wrap(Patches(), DiffusionNoise(100), tell="scale-shift")
    scale, shift = torch.arange(6.0), torch.arange(10.0, 16.0)
    D.embed.scale_shift.modulate_bias.data.copy_(torch.cat([scale, shift]))
    D(images(8, size=(2, 3)))
    expected = nn.functional.linear(D.seen, D.embed.weight, D.embed.bias) * (1 + scale) + shift
    torch.testing.assert_close(D.h, expected)


def test_scale_and_shift_in_named_layers():
    """Where another layer runs first than was built first, as in a progressive D."""

    class Progressive(nn.Module):
        def __init__(self):
            super().__init__()
            self.from_rgb = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))

        def forward(self, x, step=2):
            return self.from_rgb[step](x)

    D, x = wrap(Progressive(), DiffusionNoise(100), tell="scale-shift"), images()
    D(x, step=0)
    with pytest.warns(WrapWarning, match=r"Progressive ran without from_rgb\.0, by which it is told t; name") as caught:
        D(x)
        D(x)
    assert len(caught) == 1
    wrap(unwrap(D), DiffusionNoise(100), tell=("from_rgb.1", "from_rgb.2"))
    assert sum("scale_shift" in name for name, _ in D.named_parameters()) == 8
    for step in (1, 2):
        D(x, step=step).sum().backward()
        assert D.from_rgb[step].scale_shift.modulate_bias.grad.any()
    unwrap(wrap(unwrap(D), DiffusionNoise(100), tell="from_rgb.1"))
    assert not any("scale_shift" in name for name, _ in D.named_parameters())


def test_unwrap_after_a_layer_was_replaced():
    D, x = wrap(Critic(), DiffusionNoise(100), tell="scale-shift"), images()
    D.convolution = nn.Conv2d(3, 4, 3, padding=1)
    with pytest.raises(RuntimeError, match="the layer 'convolution', by which D is told t, was replaced; unwrap D"):
        D(x)
    wrap(unwrap(D), DiffusionNoise(100), tell="scale-shift")(x)


def test_two_discriminators_that_share_layers():
    first, second, x = Critic(), Critic(), images()
    second.convolution = first.convolution
    for D in (first, second):
        wrap(D, DiffAugment())
        D(x)
    assert not torch.equal(second(x), first(x))
    unwrap(second), unwrap(first)
    assert torch.equal(second(x), second(x))
    wrap(first, DiffusionNoise(100), tell="scale-shift")
    with pytest.raises(ValueError, match="tell='convolution' names a layer that tells another D its t"):
        wrap(second, DiffusionNoise(100), tell="convolution")
    unwrap(first)
    assert not any(
        hooks for D in (first, second) for m in D.modules() for hooks in (m._forward_pre_hooks, m._forward_hooks)
    )


def test_scale_shift_of_an_empty_batch_and_of_a_layer_of_another_kind():
    D = wrap(nn.Sequential(nn.Conv2d(3, 4, 3)), DiffusionNoise(100), tell="scale-shift")
    assert D(images(0)).shape == (0, 4, 6, 4)
    norm = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1))
    wrap(norm, DiffusionNoise(10), tell="0")
    with pytest.raises(RuntimeError, match=r"layer for t returned \[4, 7, 3\], where 3 channels were expected"):
        norm(torch.zeros(4, 7, 3))


@pytest.mark.parametrize("tell", [(), ("head", "head"), 3])
def test_layers_that_cannot_be_told(tell):
    with pytest.raises((ValueError, TypeError), match="tell="):
        wrap(Critic(), DiffusionNoise(100), tell=tell)


def test_a_shared_draw_that_began_in_inference_mode():
    D, x = told_nothing(Critic()), images()
    with same_draw(D):
        with torch.inference_mode():
            expected = D(x)
        y = D(x.requires_grad_())
    y.sum().backward()
    assert torch.equal(y, expected)


def test_scale_shift_in_half_precision_and_after_initialisation_by_class():
    class HalfConv(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, x):
            return nn.functional.conv2d(x.half(), self.weight.half())

    D = wrap(nn.Sequential(HalfConv()), DiffusionNoise(100), tell="scale-shift")
    assert D(images()).dtype == torch.float16
    D = wrap(nn.Sequential(nn.Conv2d(3, 4, 3)), DiffusionNoise(100), tell="scale-shift")

    def initialise(module):
        if "Conv" in type(module).__name__ or "Linear" in type(module).__name__:
            nn.init.normal_(module.weight)

    D.apply(initialise)
    assert not D[0].scale_shift.modulate_weight.any()


def test_layers_outside_of_a_call_see_clean_images():
    D, x = wrap(Critic(), DiffusionNoise(100, clean_share=0.0), tell="scale-shift"), images()
    D.convolution.scale_shift.modulate_weight.data.normal_()
    with regularizer_of(D).off():
        D(x)
        clean = D.features(x)
    D(x)
    with pytest.warns(WrapWarning, match="runs past its regularizer"):
        assert torch.equal(D.features(x), clean)


def test_scale_shift_cannot_be_where_the_layer_sees_another_batch():
    class Pieces(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.layer(torch.cat(x.chunk(2, dim=3)))

    D = wrap(Pieces(), DiffusionNoise(100), tell="scale-shift")
    with pytest.raises(RuntimeError, match=r"D's layer for t returned \[8, 2, 6, 1\] for a batch of 4"):
        D(images())
    with pytest.raises(ValueError, match="a LazyConv2d, does not know its sizes yet; call D once before wrap"):
        wrap(nn.Sequential(nn.LazyConv2d(4, 3)), DiffusionNoise(100), tell="scale-shift")


def test_calls_that_miss_the_regularizer():
    class Method(Critic):
        def loss(self, x):
            return self.forward(x).square().mean()

        def right_loss(self, x):
            return self(x).square().mean()

    D, x = told_nothing(Method()), images()
    D.right_loss(x)
    assert D.seen is not x
    with regularizer_of(D).off():
        D.loss(x)
    with pytest.warns(WrapWarning, match=r"Method runs past its regularizer: .* self\(x\)") as caught:
        D.loss(x)
        D.features(x)
    assert len(caught) == 1
    D(x)
    D.loss(x)


def test_a_discriminator_that_raises():
    """It is outside of a call afterwards, and the next call is as any other."""

    class Failing(Critic):
        def forward(self, x):
            if x.shape[0] == 1:
                raise KeyError
            return super().forward(x)

    D = told_nothing(Failing())
    with pytest.raises(KeyError):
        D(images(1))
    assert D(images(2)).shape == (2,)
    with pytest.warns(WrapWarning, match="runs past its regularizer"):
        D.features(images())


def saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("tell", ["nothing", "scale-shift"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies_have_a_regularizer_of_their_own(copied, tell):
    D, x = wrap(Critic(), *regularizers(), tell=tell), images()
    for _ in range(2):  # also after it ran
        other = copied(D)
        assert torch.equal(output(other, x), output(D, x))
        regularizer_of(other).noise.set_p(0.1)
        other.head.weight.data.zero_()
        assert regularizer_of(D).noise.T == 100
        assert D.head.weight.any()
        unwrap(other)
    D(x)


def test_a_loaded_copy_takes_further_hooks():
    """Hooks under numbers would collide with those that a new process gives out."""
    D, calls = pickle.loads(pickle.dumps(told_nothing(Critic()))), []
    handles = [D.register_forward_pre_hook(lambda _, args: calls.append(args[0])) for _ in range(50)]
    D(x := images())
    assert len(calls) == len(handles)
    assert not torch.equal(calls[0], x)


def test_adapting_a_wrapped_discriminator():
    D = told_nothing(Critic())
    adapt = AdaptiveT(D, interval=1, kimg=0.1)
    adapt.observe(D(images()).abs() + 1)
    adapt.step(50)
    assert regularizer_of(D).noise.T == 55
    resumed = told_nothing(Critic())
    AdaptiveT(resumed).load_state_dict(adapt.state_dict())
    assert regularizer_of(resumed).noise.T == 55
    resumed.load_state_dict(D.state_dict())
    assert torch.equal(output(resumed, x := images()), output(D, x))


def test_what_is_added_to_a_wrapped_discriminator_is_saved_and_loaded():
    def build() -> nn.Module:
        D = told_nothing(Critic())
        D.new_head = nn.Linear(1, 1)
        D.register_buffer("mean_logit", torch.zeros(()))
        D.adapt = AdaptiveT(D)
        return D

    first, second = build(), build()
    regularizer_of(first).noise.set_p(0.3)
    second.load_state_dict(first.state_dict())
    assert regularizer_of(second).noise.T == regularizer_of(first).noise.T == 37
    assert {name: value.cpu() for name, value in first.state_dict().items()}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x: x, DiffAugment()), TypeError, "D is a function; wrap takes the discriminator"),
        ((Critic(),), ValueError, "wrap got no regularizer"),
        ((Critic(), 3), TypeError, "a regularizer is a int"),
        ((Critic(), DiffAugment), TypeError, "a regularizer is the class DiffAugment"),
        ((Critic(), DiffusionNoise(), DiffusionNoise()), ValueError, "two regularizers are a DiffusionNoise"),
        ((Critic(), InputRegularizer(), DiffAugment()), TypeError, "a regularizer is a InputRegularizer"),
        ((wrap(Critic(), DiffAugment()), DiffAugment()), ValueError, "D, a Critic, is or holds a wrapped"),
        ((nn.Sequential(wrap(Critic(), DiffAugment())), DiffAugment()), ValueError, "D, a Sequential, is or holds"),
    ],
)
def test_what_cannot_be_wrapped(arguments, error, message):
    with pytest.raises(error, match=message):
        wrap(*arguments)


@pytest.mark.parametrize("outer", [nn.DataParallel, lambda D: torch.compile(D, backend="eager")])
def test_what_runs_a_discriminator_is_put_around_the_wrapped_one(outer):
    D = nn.Conv2d(3, 1, 3)
    with pytest.raises(ValueError, match="wrap the discriminator that it holds"):
        wrap(outer(D), DiffAugment())
    assert outer(wrap(D, DiffAugment()))(torch.zeros(2, 3, 8, 8)).shape == (2, 1, 6, 6)


class OnTheDeviceOnly(TorchDispatchMode):
    """Fails on anything that reads the device back, or that brings a tensor to it or from it."""

    def __init__(self, device: str, *on_the_host: torch.Tensor) -> None:
        super().__init__()
        self.device = device
        self.on_the_host = on_the_host  # which may be read there

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if args and any(args[0] is value for value in self.on_the_host):
            assert function is torch.ops.aten._local_scalar_dense.default
            return result
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
    wrapped = told_nothing(Critic().to(device), per_channel=per_channel)
    regularizer_of(wrapped).enabled = enabled
    adapt = AdaptiveT(DiffusionNoise(100))
    x = torch.zeros(4, 3, 8, 6, device=device)
    adapt.observe(wrapped(x))  # its counts move to the device once
    noise = regularizer_of(wrapped).noise
    with OnTheDeviceOnly(device, noise.p, noise.redraws):
        logits = wrapped(x.requires_grad_())
        regularizer_of(wrapped)(x, return_t=True)
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
