"""InputRegularizer: augmentation, noise and other parts, in one pass where that is possible."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_regularizers import DiffAugment, DiffusionNoise, InputRegularizer, regularizer_of, same_draw, wrap
from gan_regularizers.diffaugment import POLICIES
from gan_regularizers.ops import drawn_transform, input_transform


def regularizers(**settings) -> tuple[DiffAugment, DiffusionNoise]:
    return DiffAugment(), DiffusionNoise(100, noise_std=0.5, **settings)


def images(n: int = 4, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(n, channels, 8, 6, dtype=torch.float64) * 2 - 1).to(dtype)


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
    of_channels = InputRegularizer(DiffAugment(), DiffusionNoise(100, per_channel=True))
    assert torch.equal(of_channels(x, 7, return_t=True)[1], torch.full((4, 3), 7))
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


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (3, "a int"),
        (DiffAugment, "the class DiffAugment"),
        (InputRegularizer(), "a InputRegularizer"),
    ],
)
def test_parts_of_another_type(part, named):
    with pytest.raises(
        TypeError, match=f"a regularizer is {named}; pass a DiffAugment, a DiffusionNoise, and any other"
    ):
        InputRegularizer(DiffAugment(), part)


def test_one_noise_at_most():
    with pytest.raises(ValueError, match="two regularizers are a DiffusionNoise"):
        InputRegularizer(DiffusionNoise(), DiffAugment(), DiffusionNoise())


class Flip(nn.Module):
    """An augmentation of the user's own."""

    def forward(self, x):
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
        return torch.where(flipped, x.flip(3), x)


def shear(x):
    return x + 0.1 * x.roll(1, 2)


@pytest.mark.parametrize(
    "order",
    ["shear augment noise", "augment shear noise", "noise augment shear", "noise shear augment", "augment augment"],
)
def test_parts_run_in_their_order(order):
    """Whether or not some of them share a pass."""
    modules = {"augment": DiffAugment(), "noise": DiffusionNoise(100, noise_std=0.5), "shear": shear}
    regularizer, x = InputRegularizer(*(modules[name] for name in order.split())), images(dtype=torch.float64)
    params, expected = regularizer.sample(x), x
    for name, drawn in zip(order.split(), params.parts, strict=True):
        expected = shear(expected) if name == "shear" else modules[name](expected, params=drawn)
    torch.testing.assert_close(regularizer(x, params=params), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "of_noise", [{}, {"channels": slice(0, 3)}, {"channels": slice(1, 4)}, {"value_range": (0, 1)}]
)
def test_noise_shares_a_pass_only_if_its_picture_is_the_same(of_noise):
    """Either way the result is that of one after the other."""
    aug, noise = DiffAugment(channels=slice(0, 3)), DiffusionNoise(100, noise_std=0.5, **of_noise)
    regularizer, x = InputRegularizer(aug, noise), images(channels=4, dtype=torch.float64)
    params = regularizer.sample(x)
    expected = noise(aug(x, params=params.augment), params=params.noise)
    torch.testing.assert_close(regularizer(x, params=params), expected, rtol=1e-12, atol=1e-12)
    y = regularizer(x.requires_grad_(), params=params)
    assert torch.autograd.grad(y.sum(), x)[0].any()


@pytest.mark.parametrize("replays", [False, True])
def test_noise_takes_no_pass_of_its_own(monkeypatch, replays):
    regularizer, x, noisy = InputRegularizer(DiffAugment("cutout,color"), DiffusionNoise(100)), images(), []

    def given(x, params, *fits):
        noisy.append(params.noise_std is not None)
        return input_transform(x, params, *fits)

    def drawn(x, words, columns, steps, *picture):
        noisy.append(steps is not None)
        return drawn_transform(x, words, columns, steps, *picture)

    for module in ("regularizer", "diffusion_noise"):
        monkeypatch.setattr(f"gan_regularizers.{module}.input_transform", given)
    monkeypatch.setattr("gan_regularizers.regularizer.drawn_transform", drawn)
    regularizer(x, params=regularizer.sample(x) if replays else None)
    assert noisy == [False, True]


@pytest.mark.usefixtures("seeds_everywhere")
def test_both_in_another_range_and_some_channels():
    """RGBA in [0, 1]: the same picture as RGB in [-1, 1], and alpha is only moved."""
    here = InputRegularizer(DiffAugment(), DiffusionNoise(100, noise_std=0.5))
    settings = {"value_range": (0, 1), "channels": slice(0, 3)}
    there = InputRegularizer(DiffAugment(**settings), DiffusionNoise(100, noise_std=0.5, **settings))
    x, alpha = images(16, dtype=torch.float64), torch.ones(16, 1, 8, 6, dtype=torch.float64)
    torch.manual_seed(4)
    expected = here(x)
    torch.manual_seed(4)
    y = there(torch.cat([(x + 1) / 2, alpha], dim=1))
    torch.testing.assert_close(2 * y[:, :3] - 1, expected, rtol=1e-6, atol=1e-6)
    assert set(y[:, 3].unique().tolist()) == {0.5, 1.0}


def test_own_parts_draw_when_they_run():
    flip, x = Flip(), images(32)
    regularizer = InputRegularizer(flip, DiffAugment("translation"))
    params = regularizer.sample(x)
    assert params.parts[0] is None
    assert not torch.equal(regularizer(x, params=params), regularizer(x, params=params))
    assert list(regularizer.state_dict()) == []
    assert repr(InputRegularizer(shear)).count("shear")


def test_params_of_another_batch_or_regularizer():
    aug, noise = regularizers()
    regularizer, both = InputRegularizer(aug, noise), InputRegularizer(noise)
    params = regularizer.sample(images(3))
    for other in (regularizer, both):
        with pytest.raises(ValueError, match=r"params"):
            other(images(6), params=params)
    with pytest.raises(ValueError, match=r"params have 2 parts, the regularizer 1"):
        both(images(3), params=params)


def test_parts_that_are_off_act_in_no_shared_draw():
    D = wrap(nn.Conv2d(3, 1, 3), *regularizers(clean_share=0.0), tell="nothing")
    x, regularizer = images(), regularizer_of(D)
    with same_draw(D) as draw:
        D(x)
        regularizer.noise.enabled = False
        D(x)
        regularizer.augment.enabled = False
        D(x)
    both, augmented, neither = (call.images[0] for call in draw.calls)
    assert not torch.equal(both, augmented)
    assert not torch.equal(augmented, x)
    assert torch.equal(neither, x)
    assert [call.t.any().item() for call in draw.calls] == [True, False, False]


def test_parts_that_are_off_are_off_under_params_too():
    regularizer, x = InputRegularizer(*regularizers(clean_share=0.0)), images()
    params = regularizer.sample(x)
    regularizer.augment.enabled = regularizer.noise.enabled = False
    y, t = regularizer(x, params=params, return_t=True)
    assert y is x
    assert not t.any()


def test_a_part_that_resizes_before_augmentation():
    """Shifts and boxes were drawn for the images as they came in."""
    regularizer = InputRegularizer(nn.Upsample(scale_factor=2), DiffAugment())
    with pytest.raises(ValueError, match=r"makes images \[3, 16, 12\] of \[3, 8, 6\]; put it after DiffAugment"):
        regularizer(images())
    assert InputRegularizer(DiffAugment(), nn.Upsample(scale_factor=2), DiffusionNoise())(images()).shape[2:] == (
        16,
        12,
    )


def test_off_for_a_while():
    regularizer, x = InputRegularizer(*regularizers()), images()
    with pytest.raises(KeyError), regularizer.off():
        assert regularizer(x) is x
        raise KeyError
    assert regularizer(x) is not x
    regularizer.enabled = False
    with regularizer.off():
        pass
    assert regularizer(x) is x


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
