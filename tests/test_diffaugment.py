"""DiffAugment: the policy, the distribution of what is drawn, and that a draw can be replayed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_regularizers import DiffAugment
from gan_regularizers.commands.bench.baseline import official_sequence
from gan_regularizers.diffaugment import POLICIES, PRESETS
from gan_regularizers.ops import TransformParams, input_transform

MANY = 200_000


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(shape, dtype=torch.float64) * 2 - 1).to(dtype)


def draw(policy: str, height: int = 16, width: int = 24, **ranges) -> TransformParams:
    """MANY draws for images of this size, which take no memory."""
    x = torch.zeros(()).expand(MANY, 3, height, width)
    (params,) = DiffAugment(policy, **ranges).sample(x, torch.Generator().manual_seed(7))
    return params


def assert_uniform_over(values: torch.Tensor, low: int, high: int) -> None:
    """Pearson's statistic within five standard deviations of its mean; every value occurs and no other."""
    counts = torch.bincount(values - low, minlength=high - low + 1).double()
    assert len(counts) == high - low + 1
    expected = len(values) / len(counts)
    assert counts.min() > 0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("policy", "passes"),
    [
        ("", ()),
        ("  ", ()),
        ("color", (("color",),)),
        (" color ,translation,cutout", (("color", "translation", "cutout"),)),
        ("color,cutout", (("color", "cutout"),)),
        ("cutout,color", (("cutout",), ("color",))),
        ("translation,translation", (("translation",), ("translation",))),
        ("translation,color,cutout,cutout", (("translation",), ("color", "cutout"), ("cutout",))),
    ],
)
def test_policy_is_split_where_its_order_needs_another_pass(policy, passes):
    assert DiffAugment(policy).passes == passes


@pytest.mark.parametrize("policy", ["colour", "color,", ",color", "color;cutout", "Color", "color,,cutout"])
def test_unknown_names_list_the_known_ones(policy):
    with pytest.raises(ValueError, match=r"policy=.*unknown name .*color, translation, cutout"):
        DiffAugment(policy)


@pytest.mark.parametrize("policy", [None, ["color"], 3])
def test_policy_of_another_type(policy):
    with pytest.raises(TypeError, match="policy="):
        DiffAugment(policy)


def test_nothing_to_do_returns_the_input_itself():
    x = images(2, 3, 4, 4)
    assert DiffAugment("")(x) is x
    aug = DiffAugment()
    aug.enabled = False
    assert aug(x) is x
    assert not aug.active
    aug.enabled = True
    assert not torch.equal(aug(x), x)


@pytest.mark.parametrize("training", [True, False])
def test_acts_in_train_and_in_eval(training):
    x = images(8, 3, 8, 8)
    assert not torch.equal(DiffAugment("color").train(training)(x), x)


@given(st.lists(st.sampled_from(POLICIES), max_size=5), st.sampled_from((1, 3, 4)), st.integers(0, 2**31))
def test_any_policy_equals_its_parts_in_order(names, channels, seed):
    torch.manual_seed(seed)
    x = images(2, channels, 7, 6)
    aug = DiffAugment(",".join(names))
    params = aug.sample(x)
    expected, replayed, policy = x.double(), x, []
    for parts, drawn in zip(aug.passes, params, strict=True):
        fields = {"color": ("brightness", "saturation", "contrast"), "translation": ("shift",), "cutout": ("cutout",)}
        for part in parts:
            single = TransformParams(**{name: getattr(drawn, name) for name in fields[part]})
            expected = official_sequence(expected, single, cutout_size=(4, 3))
            replayed = DiffAugment(part)(replayed, params=(single,))
            policy.append(part)
    assert policy == names
    actual = aug(x, params=params)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(actual, replayed, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "ranges", "low", "high"),
    [
        ("brightness", {}, -0.5, 0.5),
        ("saturation", {}, 0.0, 2.0),
        ("contrast", {}, 0.5, 1.5),
        ("brightness", {"brightness": (0.25, 0.75)}, 0.25, 0.75),
        ("saturation", {"saturation": (0.5, 1.0)}, 0.5, 1.0),
        ("contrast", {"contrast": (-1.0, 1.0)}, -1.0, 1.0),
    ],
)
def test_colour_is_uniform(name, ranges, low, high):
    values = getattr(draw("color", **ranges), name).double()
    width = high - low
    assert values.shape == (MANY,)
    assert low <= values.min() < low + 1e-4 * width
    assert high >= values.max() > high - 1e-4 * width
    assert abs(float(values.mean()) - (low + high) / 2) < 4 * width / (12 * MANY) ** 0.5
    assert abs(float(values.var()) - width**2 / 12) < 4 * width**2 / (180 * MANY) ** 0.5


def test_colours_are_independent():
    params = draw("color")
    values = torch.stack([params.brightness, params.saturation, params.contrast])
    assert (torch.corrcoef(values) - torch.eye(3)).abs().max() < 4 / MANY**0.5


@pytest.mark.parametrize(
    ("height", "width", "ratio", "largest"), [(16, 24, 0.125, (2, 3)), (20, 11, 0.125, (3, 1)), (4, 3, 1.0, (4, 3))]
)
def test_every_shift_occurs_equally_often(height, width, ratio, largest):
    shift = draw("translation", height, width, translation=ratio).shift
    for values, bound in zip(shift.unbind(1), largest, strict=True):
        assert_uniform_over(values, -bound, bound)
    # The two axes are drawn independently.
    assert abs(float(torch.corrcoef(shift.T.double())[0, 1])) < 4 / MANY**0.5


@pytest.mark.parametrize(("height", "width", "ratio"), [(16, 24, 0.5), (9, 10, 0.5), (16, 9, 0.2), (4, 3, 1.0)])
def test_every_cutout_offset_occurs_equally_often(height, width, ratio):
    """Offsets are 0..size - cutout % 2, and the box starts half its length before."""
    cutout = draw("cutout", height, width, cutout=ratio).cutout
    for (start, stop), size in zip(cutout.T.view(2, 2, -1), (height, width), strict=True):
        length = int(size * ratio + 0.5)
        assert torch.equal(stop - start, torch.full((MANY,), length))
        assert_uniform_over(start, -(length // 2), size - length % 2 - length // 2)
    assert abs(float(torch.corrcoef(cutout[:, ::2].T.double())[0, 1])) < 4 / MANY**0.5


def test_draws_are_those_of_release_0_1():
    """A run that goes on with this release draws what it would have drawn."""
    assert DiffAugment().words == 7  # also of what is drawn after them
    (params,) = DiffAugment().sample(torch.zeros(2, 3, 16, 24), torch.Generator().manual_seed(7))
    assert [value.tolist() for value in params[:5]] == [
        [0.0763082504272461, -0.22008121013641357],
        [1.8768184185028076, 0.44693028926849365],
        [0.9779894948005676, 0.5384958386421204],
        [[-2, 2], [0, 3]],
        [[-1, 7, 16, 28], [1, 9, 8, 20]],
    ]
    cutout, colour = DiffAugment("cutout,color").sample(torch.zeros(2, 3, 16, 24), torch.Generator().manual_seed(7))
    assert cutout.cutout.tolist() == [[5, 13, 17, 29], [0, 8, -1, 11]]
    assert colour.contrast.tolist() == [1.2684389352798462, 1.499882459640503]


ORDERS = ("color,translation,cutout", "cutout,color,translation", "color")


@pytest.mark.parametrize("policy", ORDERS)
@pytest.mark.parametrize("value_range", [(0, 1), (0, 255), (-3.0, 1.0)])
@pytest.mark.parametrize("channels", [None, slice(0, 3)])
def test_the_range_of_values_makes_no_difference_to_the_picture(channels, value_range, policy):
    x = images(6, 4, 12, 10, dtype=torch.float64)
    low, high = value_range

    def ranged(x: torch.Tensor) -> torch.Tensor:
        return (x + 1) * ((high - low) / 2) + low

    expected = DiffAugment(policy, channels=channels)(x, generator=torch.Generator().manual_seed(5))
    aug = DiffAugment(policy, channels=channels, value_range=value_range)
    actual = aug(ranged(x), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(actual, ranged(expected), rtol=1e-6, atol=1e-6 * (high - low))  # float32 draws
    assert not torch.equal(expected, x)


@pytest.mark.parametrize("policy", ORDERS)
@pytest.mark.parametrize("channels", [slice(0, 3), slice(-1), slice(None, 3, 1), range(3)])
def test_channels_beside_the_picture_only_move(channels, policy):
    """RGBA: the colours change as those of RGB do, and alpha keeps its values where it comes to lie."""
    x = images(6, 4, 12, 10, dtype=torch.float64)
    aug = DiffAugment(policy, channels=channels)
    y = aug(x, generator=torch.Generator().manual_seed(5))
    picture = DiffAugment(policy)(x[:, :3], generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(y[:, :3], picture, rtol=1e-12, atol=1e-12)
    alpha = x[:, 3:]
    for one_pass in aug.sample(x, torch.Generator().manual_seed(5)):
        alpha = input_transform(alpha, TransformParams(shift=one_pass.shift, cutout=one_pass.cutout))
    assert torch.equal(y[:, 3:], alpha)


@pytest.mark.parametrize("channels", [slice(3, None), slice(1, -2), range(3, 5), slice(0, 0)])
def test_channels_that_an_image_does_not_have(channels):
    with pytest.raises(ValueError, match=r"channels=.* selects none of the 3 channels of x, .*\[2, 3, 4, 4\]; pass"):
        DiffAugment("color", channels=channels)(images(2, 3, 4, 4))


@pytest.mark.parametrize("policy", ORDERS)
def test_p_is_the_share_of_samples_that_are_touched(policy):
    """Each in all passes or in none."""
    x = images(1, 3, 4, 4).expand(MANY // 50, 3, 4, 4)
    touched = (DiffAugment(policy, p=0.3)(x) - x).abs().amax((1, 2, 3)) > 1e-6
    # A touched sample may happen to stay where it is, but its colours change.
    assert abs(float(touched.float().mean()) - 0.3) < 4 * (0.3 * 0.7 / len(x)) ** 0.5


@pytest.mark.parametrize("policy", ["color,translation,cutout", "cutout,color,translation"])
def test_what_p_leaves_alone_comes_out_as_it_went_in(policy):
    x, aug = images(64, 3, 9, 8, dtype=torch.float64), DiffAugment(policy, p=0.5)
    words = torch.randint(-(2**63), 2**63 - 1, (aug.words, len(x)))
    always = DiffAugment(policy)
    assert aug.words == always.words + 1
    y, touched_y = aug(x, params=aug.params_from(words, x)), always(x, params=always.params_from(words[:-1], x))
    touched = (words[-1] >> 40 & 0xFFFFFF) < 2**23
    assert 16 < touched.sum() < 48
    assert torch.equal(y[touched], touched_y[touched])
    torch.testing.assert_close(y[~touched], x[~touched], rtol=1e-15, atol=1e-15)


def test_whether_a_sample_is_touched_is_independent_of_what_is_done():
    params = draw("color,translation,cutout", p=0.5)
    touched = params.saturation != 1.0
    values = torch.stack(
        [params.brightness, params.contrast, *params.shift.T.float(), *params.cutout[:, ::2].T.float()]
    )
    assert not values[:, ~touched].sub(torch.tensor([0.0, 1.0, 0, 0, 0, 0])[:, None]).any()
    # Over those that are touched every draw has the mean that it has over all.
    (every,) = DiffAugment().sample(torch.zeros(()).expand(MANY, 3, 16, 24))
    every = torch.stack([every.brightness, every.contrast, *every.shift.T.float(), *every.cutout[:, ::2].T.float()])
    error = (values[:, touched].var(1) / touched.sum() + every.var(1) / MANY).sqrt()
    assert ((values[:, touched].mean(1) - every.mean(1)).abs() < 4 * error).all()


def test_p_of_zero_returns_the_input_itself():
    x, aug = images(2, 3, 4, 4), DiffAugment(p=0.0)
    assert not aug.active
    assert aug(x) is x
    assert DiffAugment(p=0.1).active


def test_a_range_of_one_value():
    """A part of colour is switched off by the value that changes nothing."""
    x = images(4, 3, 5, 6)
    y = DiffAugment("color", brightness=(0.25, 0.25), saturation=(1, 1), contrast=(1, 1))(x)
    torch.testing.assert_close(y, x + 0.25)


@pytest.mark.parametrize("policy", ["translation", "cutout"])
def test_a_share_of_zero_changes_nothing(policy):
    x = images(4, 3, 5, 6)
    assert torch.equal(DiffAugment(policy, translation=0.0, cutout=0.0)(x), x)


def test_presets():
    assert {name: DiffAugment.preset(name).cutout for name in PRESETS} == {
        "data_efficient_gans": 0.5,
        "projected_gan": 0.2,
        "stylegan_xl": 0.2,
        "diffusion_gan": 0.2,
    }
    for name in PRESETS:  # all else is the paper's everywhere
        aug = DiffAugment.preset(name)
        assert (aug.policy, aug.translation) == ("color,translation,cutout", 0.125)
        assert (aug.brightness, aug.saturation, aug.contrast) == ((-0.5, 0.5), (0.0, 2.0), (0.5, 1.5))
        assert (aug.p, aug.picture.value_range, aug.picture.channels) == (1.0, (-1.0, 1.0), None)
    changed = DiffAugment.preset("projected_gan", "cutout", cutout=0.3, contrast=(1.0, 1.0))
    assert (changed.policy, changed.cutout, changed.contrast) == ("cutout", 0.3, (1.0, 1.0))
    with pytest.raises(ValueError, match="name='biggan' is unknown; choose one of data_efficient_gans"):
        DiffAugment.preset("biggan")


@pytest.mark.parametrize("policy", ["color,translation,cutout", "cutout,color"])
def test_replay_to_the_bit(policy):
    aug, x = DiffAugment(policy), images(4, 3, 9, 8)
    params = aug.sample(x)
    assert torch.equal(aug(x, params=params), aug(x, params=params))
    torch.manual_seed(3)
    params = aug.sample(x)
    torch.manual_seed(3)
    assert torch.equal(aug(x), aug(x, params=params))


def test_own_generator():
    aug, x = DiffAugment(), images(4, 3, 9, 8)
    before = torch.get_rng_state()
    first = aug(x, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(aug(x, generator=torch.Generator().manual_seed(1)), first)
    assert not torch.equal(aug(x, generator=torch.Generator().manual_seed(2)), first)


def test_samples_of_a_batch_are_drawn_separately():
    x = images(1, 3, 9, 8).expand(6, 3, 9, 8)
    assert len(torch.unique(DiffAugment("color")(x), dim=0)) == 6


@given(
    st.lists(st.sampled_from(POLICIES), max_size=3),
    st.tuples(st.integers(0, 3), st.sampled_from((1, 2, 3, 4)), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    st.booleans(),
)
def test_shape_dtype_and_finiteness_hold(names, shape, dtype, channels_last):
    x = images(*shape, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    y = DiffAugment(",".join(names))(x)
    assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)
    assert y.stride() == x.stride() or x.is_contiguous()
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4, 4), ValueError, r"x has shape \[3, 4, 4\]; policy 'color' needs images"),
        (torch.zeros(2, 3, 4, 4, 4), ValueError, r"\[N, C, H, W\]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), TypeError, "x has dtype torch.uint8"),
        (None, TypeError, "x is a NoneType"),
    ],
)
def test_inputs_that_are_no_images(x, error, message):
    with pytest.raises(error, match=message):
        DiffAugment("color")(x)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("brightness", "saturation", "contrast") for value in ((1.0, 0.0), 1.0, (1, 2, 3))),
        ("brightness", (float("nan"), 1.0)),
        ("saturation", (0.0, float("inf"))),
        ("contrast", ("low", "high")),
        *(("p", value) for value in (-0.1, 1.1, float("nan"), "half", None)),
        *(("value_range", value) for value in ((1.0, 1.0), (0, float("inf")), 1.0, ("0", "1"))),
        *(("channels", value) for value in (3, (0, 3), "rgb", slice(0, 3, 2), slice(0.5))),
        *((name, value) for name in ("translation", "cutout") for value in (-0.1, 1.1, float("nan"), "half", None)),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name}="):
        DiffAugment(**{name: value})


def test_params_of_another_batch():
    aug = DiffAugment("color")
    with pytest.raises(ValueError, match="brightness has shape"):
        aug(images(3, 3, 4, 4), params=aug.sample(images(2, 3, 4, 4)))


@pytest.mark.parametrize("policy", ["color,translation,cutout", "cutout,color,translation"])
@pytest.mark.parametrize("settings", [{}, {"p": 0.5, "value_range": (0, 1), "channels": slice(1, None)}])
def test_gradients_of_first_and_second_order(settings, policy):
    aug, x = DiffAugment(policy, **settings), images(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    params = aug.sample(x)
    assert torch.autograd.gradcheck(lambda x: aug(x, params=params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: aug(x, params=params), (x,))


def test_has_no_state():
    aug = DiffAugment()
    assert not aug.state_dict()
    assert "color,translation,cutout" in repr(aug)
