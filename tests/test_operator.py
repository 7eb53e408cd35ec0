"""The operator's closed form against the step-by-step sequence, and its derivatives."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_calls import each
from plain_normals import exact_normals, normal_block
from torch import Tensor

from gan_regularizers import use_backend
from gan_regularizers.commands.bench.baseline import contrast, cutout, official_sequence, saturation, translation
from gan_regularizers.ops import TransformParams, input_transform, memory_format

PARTS = ("brightness", "saturation", "contrast", "shift", "cutout", "gain", "noise_std")
SHAPE = (3, 3, 6, 5)


@dataclasses.dataclass
class Case:
    x: torch.Tensor
    params: TransformParams
    cutout_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.params.noise_std is not None:
            real = torch.float64 if self.x.dtype == torch.float64 else torch.float32
            self.noise = exact_normals(self.params.seed, self.x[:1].numel(), real).view(self.x.shape)
        else:
            self.noise = None

    @property
    def picture(self) -> slice:
        return slice(*(self.params.channels or (None,)))

    def expected(self, x: torch.Tensor | None = None) -> torch.Tensor:
        """The official sequence about the centre; channels beside the picture are moved and cut out with it."""
        centred = (self.x if x is None else x).double() - self.params.centre
        geometry = TransformParams(shift=self.params.shift, cutout=self.params.cutout)
        y = official_sequence(centred, geometry, None, self.cutout_size)
        noise = None if self.noise is None else self.noise[:, self.picture]
        y[:, self.picture] = official_sequence(centred[:, self.picture], self.params, noise, self.cutout_size)
        return y + self.params.centre


def make_case(shape=SHAPE, parts=PARTS, seed=0, dtype=torch.float64, centre=0.0, channels=None) -> Case:
    """Random images and random parameters; boxes overhang as DiffAugment's do, some shifts leave the image."""
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = shape

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float32).double()

    def integers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high + 1, (n,), generator=generator)

    def shifts(edge: int) -> torch.Tensor:
        far, near = integers(-edge - 1, edge + 1), integers(-(edge // 3), edge // 3)
        return torch.where(integers(0, 3) == 0, far, near)

    sizes = [int(integers_up_to) for integers_up_to in (uniform(2) * torch.tensor([height, width]) + 0.5)]
    top, left = (integers(0, edge - size % 2) - size // 2 for edge, size in zip((height, width), sizes, strict=True))
    values = {
        "brightness": uniform(n) - 0.5,
        "saturation": uniform(n) * 2,
        "contrast": uniform(n) + 0.5,
        "shift": torch.stack([shifts(height), shifts(width)], 1),
        "cutout": torch.stack([top, top + sizes[0], left, left + sizes[1]], 1),
        "gain": uniform(n),
        "noise_std": uniform(n),
    }
    params = {name: values[name] for name in parts}
    if "noise_std" in parts:
        params["seed"] = torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)
    x = (2 * uniform(*shape) - 1 + centre).to(dtype)
    return Case(x, TransformParams(**params, centre=centre, channels=channels), (sizes[0], sizes[1]))


# Images [N, 4, ...] with pictures at every place, and centres that binary fractions hold.
PICTURES = [
    {"centre": centre, "channels": channels}
    for centre, channels in ((0.5, None), (0.0, (0, 3)), (0.5, (0, 3)), (-1.25, (1, 4)), (0.5, (1, 3)), (0.25, (2, 3)))
]


@st.composite
def cases(draw, dtype=torch.float64) -> Case:
    side = st.integers(1, 9)
    shape = (draw(st.integers(0, 3)), draw(st.sampled_from((1, 3, 4))), draw(side), draw(side))
    parts = draw(st.lists(st.sampled_from(PARTS), unique=True))
    centre = draw(st.sampled_from((0.0, 0.5, -1.25)))
    pictures = [(begin, end) for begin in range(shape[1]) for end in range(begin + 1, shape[1] + 1)]
    channels = draw(st.none() | st.sampled_from(pictures))
    return make_case(shape, parts, draw(st.integers(0, 2**32)), dtype, centre, channels)


def channels_case(shape, seed=0, dtype=torch.float64, centre=0.0, parts=("gain", "noise_std")) -> Case:
    """Random feature maps with a gain, a noise_std and a seed for every channel, of which every other is clean."""
    generator = torch.Generator().manual_seed(seed)
    rows = shape[:2]
    clean = torch.rand(rows, generator=generator) < 0.5
    values = {
        "gain": torch.where(clean, 1.0, torch.rand(rows, generator=generator)),
        "noise_std": torch.where(clean, 0.0, torch.rand(rows, generator=generator)),
    }
    params = {name: values[name] for name in parts}
    if "noise_std" in parts:
        params["seed"] = torch.randint(-(2**63), 2**63 - 1, rows, generator=generator)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return ChannelsCase(x, TransformParams(**params, centre=centre), (0, 0))


class ChannelsCase(Case):
    """A case whose samples are channels."""

    def __post_init__(self) -> None:
        self.rows = Case(
            self.x.reshape(-1, 1, 1, math.prod(self.x.shape[2:])), each(self.params, Tensor.flatten), (0, 0)
        )

    def expected(self, x: torch.Tensor | None = None) -> torch.Tensor:
        return self.rows.expected(None if x is None else x.reshape(self.rows.x.shape)).view(self.x.shape)


@pytest.fixture(params=["reference", "native"], autouse=True)
def _backend(request):
    """Every test of this file runs on both backends."""
    with use_backend(request.param):
        yield


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [SHAPE, (2, 4, 6, 6), (2, 3, 70, 81)])
def test_a_case_of_all_parts_shows_each_of_them(shape, part):
    """Else tests with such a case would say nothing of it."""
    case = make_case(shape)
    without = case.params._replace(**dict.fromkeys(("noise_std", "seed") if part == "noise_std" else (part,)))
    changed = (input_transform(case.x, case.params) - input_transform(case.x, without)).abs().amax((1, 2, 3)) > 1e-3
    assert changed.any()


@given(cases())
def test_the_operator_equals_the_sequence(case):
    torch.testing.assert_close(input_transform(case.x, case.params), case.expected(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float16, 2**-11 + 1e-6), (torch.bfloat16, 2**-8 + 1e-6)]
)
@given(data=st.data())
def test_half_precision_only_rounds_the_result(dtype, rtol, data):
    """All dtypes compute in float32 (hence the absolute tolerance), so rtol is half a step of the result."""
    case = data.draw(cases(dtype))
    actual = input_transform(case.x, case.params)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), case.expected(), rtol=rtol, atol=4e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parts", [PARTS, ("brightness",), ("shift",), ("cutout", "noise_std"), ()])
def test_memory_layouts(parts, dtype):
    case = make_case((2, 4, 6, 6), parts, dtype=dtype)
    expected = input_transform(case.x, case.params)
    assert expected.is_contiguous()
    last = input_transform(case.x.contiguous(memory_format=torch.channels_last), case.params)
    assert last.is_contiguous(memory_format=torch.channels_last)
    spread = torch.zeros(2, 4, 12, 6, dtype=dtype)[:, :, ::2].copy_(case.x)
    turned = case.x.transpose(2, 3).contiguous().transpose(2, 3)
    # The mean may be summed in another order; nothing else may differ.
    tolerance = (
        {"rtol": torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps}
        if "contrast" in parts
        else {"rtol": 0, "atol": 0}
    )
    torch.testing.assert_close(last, expected, **tolerance)
    for x in (spread, turned):
        assert not x.is_contiguous()
        y = input_transform(x, case.params)
        assert y.is_contiguous()
        torch.testing.assert_close(y, expected, **tolerance)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 1, 1), (2, 1, 1, 1)])
def test_layouts_that_are_both(shape):
    """One channel or one pixel is contiguous and channels_last; the strides stay what they are."""
    case = make_case(shape)
    for x in (case.x, case.x.contiguous(memory_format=torch.channels_last)):
        assert memory_format(x) == torch.contiguous_format
        assert input_transform(x, case.params).stride() == case.x.contiguous().stride()


def test_noise_scales_of_any_sign():
    """docs/operator.md asks for none below 0, and where one is given it is taken at its word."""
    case = make_case()
    noise_std = case.params.noise_std * torch.tensor([1.0, -1.0, 0.0])
    case = dataclasses.replace(case, params=case.params._replace(noise_std=noise_std))
    torch.testing.assert_close(input_transform(case.x, case.params), case.expected(), rtol=1e-12, atol=1e-13)


def test_noise_of_an_element_far_into_a_sample():
    """1024 x 1024 elements are 2^20: those of the second channel have other noise than those of the first."""
    params = TransformParams(noise_std=torch.ones(1), seed=torch.tensor([-3]))
    y = input_transform(torch.zeros(1, 2, 1024, 1024), params).flatten()
    for block in (0, 2**18, 2**18 + 257, 2**19 - 1):
        assert y[4 * block : 4 * block + 4].tolist() == pytest.approx(normal_block(-3, block), abs=3e-6)


def test_broadcast_batch():
    case = make_case()
    x = case.x[:1].expand(SHAPE)
    torch.testing.assert_close(input_transform(x, case.params), case.expected(x), rtol=1e-12, atol=1e-13)


def test_boxes_may_have_any_size_and_lie_anywhere():
    boxes = [(0, 6, 0, 5), (2, 3, 1, 4), (-9, 2, 3, 99), (-3, -1, 0, 5), (6, 8, 0, 5), (3, 3, 0, 5), (4, 2, 0, 5)]
    x = torch.randn(len(boxes), 2, 6, 5)
    y = input_transform(x, TransformParams(cutout=torch.tensor(boxes)))
    for before, after, (top, bottom, left, right) in zip(x.clone(), y, boxes, strict=True):
        before[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 0
        assert torch.equal(after, before)


def test_cutout_and_shift_erase_what_is_not_finite():
    x = torch.full((1, 1, 2, 2), torch.nan)
    assert not input_transform(x, TransformParams(cutout=torch.tensor([[0, 2, 0, 2]]))).any()
    assert not input_transform(x, TransformParams(shift=torch.tensor([[2, 0]]))).any()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(
    "parts", [PARTS, ("saturation",), ("contrast", "gain"), ("brightness", "noise_std"), ("shift",)]
)
def test_what_is_not_finite_is_not_finite_afterwards(parts, value):
    """So that a gradient scaler notices; other samples have no part in it."""
    case = make_case(parts=parts)
    params = case.params._replace(cutout=None, shift=None if case.params.shift is None else torch.zeros(3, 2).long())
    expected = input_transform(case.x, params)
    case.x[1, 2, 3, 4] = value
    y = input_transform(case.x, params)
    assert not y[1, 2, 3, 4].isfinite()
    assert torch.equal(y[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(data=st.data())
def test_the_whole_picture_is_every_channel(dtype, data):
    case = data.draw(cases(dtype))
    whole = case.params._replace(channels=(0, case.x.shape[1]))
    assert torch.equal(input_transform(case.x, whole), input_transform(case.x, whole._replace(channels=None)))


@given(cases(torch.float32))
def test_channels_beside_the_picture_keep_their_values(case):
    """To the bit, where they are neither moved nor cut out."""
    y = input_transform(case.x, case.params._replace(shift=None, cutout=None))
    if case.params.channels is not None:
        begin, end = case.params.channels
        assert torch.equal(y[:, :begin], case.x[:, :begin])
        assert torch.equal(y[:, end:], case.x[:, end:])


@pytest.mark.parametrize("picture", PICTURES)
def test_noise_of_a_picture_is_that_of_its_place(picture):
    """A normal depends on the element's index among all channels."""
    case = make_case((2, 4, 5, 3), ("noise_std",), **picture)
    y = input_transform(case.x, case.params)
    everywhere = input_transform(case.x, case.params._replace(centre=0.0, channels=None))
    assert torch.equal(y[:, case.picture], everywhere[:, case.picture])
    assert not torch.equal(everywhere, case.x)


@given(cases())
def test_backward_is_the_adjoint(case):
    """The mask first, then the shift reversed, then the picture's colour part, which is its own adjoint."""
    params = case.params
    x = case.x.requires_grad_()
    y = input_transform(x, params)
    cotangent = torch.randn_like(y)
    expected = cotangent.clone()
    if params.gain is not None:
        expected[:, case.picture] *= params.gain.view(-1, 1, 1, 1)
    if params.cutout is not None:
        expected = cutout(expected, params.cutout[:, ::2], case.cutout_size)
    if params.shift is not None:
        expected = translation(expected, -params.shift)
    if params.saturation is not None:
        expected[:, case.picture] = saturation(expected[:, case.picture], params.saturation)
    if params.contrast is not None:
        expected[:, case.picture] = contrast(expected[:, case.picture], params.contrast)
    (actual,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)
    if case.x.numel():
        linear = params._replace(brightness=None, noise_std=None, seed=None, centre=0.0)
        torch.testing.assert_close(
            (input_transform(x, linear) * cotangent).sum(), (x * actual).sum(), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    ("parts", "picture"),
    [(PARTS, {}), *[((part,), {}) for part in PARTS], *[(PARTS, picture) for picture in PICTURES]],
)
def test_gradients_of_first_and_second_order(parts, picture):
    case = make_case((2, 4, 3, 3), parts, **picture)
    x = case.x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: input_transform(x, case.params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: input_transform(x, case.params), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_has_the_inputs_dtype(dtype):
    case = make_case(dtype=dtype)
    x = case.x.requires_grad_()
    (gradient,) = torch.autograd.grad(input_transform(x, case.params).sum(), x)
    exact = case.x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(case.expected(exact).sum(), exact)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("parts", [("gain", "noise_std"), ("gain",), ("noise_std",)])
@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (3, 4, 1, 1), (2, 3, 2, 1), (1, 70, 4, 5), (0, 3, 2, 2), (2, 0, 2, 2)])
@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_values_for_every_channel(shape, parts, layout, centre):
    case = channels_case(shape, parts=parts, centre=centre)
    x = case.x.contiguous(memory_format=layout)
    y = input_transform(x, case.params)
    torch.testing.assert_close(y, case.expected(), rtol=1e-12, atol=1e-13)
    assert y.is_contiguous(memory_format=memory_format(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_for_every_channel_have_the_bits_of_rows(dtype):
    for shape in ((3, 70, 3, 5), (2, 5, 40, 30)):
        case = channels_case(shape, dtype=dtype)
        expected = input_transform(case.rows.x, case.rows.params).view(shape)
        for layout in LAYOUTS:
            assert torch.equal(input_transform(case.x.contiguous(memory_format=layout), case.params), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("parts", [("gain", "noise_std"), ("gain",), ("noise_std",)])
def test_gradients_with_values_for_every_channel(parts, layout):
    case = channels_case((2, 3, 3, 2), parts=parts)
    x = case.x.contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: input_transform(x, case.params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: input_transform(x, case.params), (x,))


@pytest.mark.parametrize("part", ["gain", "noise_std", "seed"])
def test_values_for_every_channel_of_another_shape(part):
    case = channels_case((2, 3, 4, 4))
    for other in (getattr(case.params, part)[:, 0], getattr(case.params, part)[:, :2]):
        with pytest.raises(ValueError, match=rf"params\.{part} has shape .*; this input needs \[2, 3\]"):
            input_transform(case.x, case.params._replace(**{part: other}))


@pytest.mark.parametrize("part", ["brightness", "saturation", "contrast", "shift", "cutout", "channels"])
def test_values_for_every_channel_stand_alone(part):
    case, other = channels_case((3, 3, 6, 5)), make_case(channels=(0, 2))
    params = case.params._replace(**{part: getattr(other.params, part)})
    with pytest.raises(
        ValueError, match=rf"params\.{part} is given beside .* every channel; do it in a pass of its own"
    ):
        input_transform(case.x, params)


def test_noise_comes_from_the_seed_alone():
    case = make_case(parts=("noise_std",))
    assert torch.equal(input_transform(case.x, case.params), input_transform(case.x, case.params))
    rows = [
        input_transform(case.x[n : n + 1], each(case.params, lambda value, n=n: value[n : n + 1]))
        for n in range(len(case.x))
    ]
    assert torch.equal(torch.cat(rows), input_transform(case.x, case.params))


@pytest.mark.parametrize("part", PARTS)
def test_parameters_of_another_shape(part):
    case = make_case(parts=PARTS)
    short = case.params._replace(**{part: getattr(case.params, part)[:2]})
    with pytest.raises(ValueError, match=rf"params\.{part} has shape"):
        input_transform(case.x, short)


@pytest.mark.parametrize("part", ["brightness", "saturation", "contrast", "gain", "noise_std"])
def test_no_gradient_for_parameters(part):
    case = make_case(parts=PARTS)
    asking = case.params._replace(**{part: getattr(case.params, part).clone().requires_grad_()})
    with pytest.raises(ValueError, match=rf"params\.{part} requires a gradient"):
        input_transform(case.x, asking)


@pytest.mark.parametrize("part", ["shift", "cutout", "seed"])
def test_whole_numbers_as_floats(part):
    case = make_case(parts=PARTS)
    floats = case.params._replace(**{part: getattr(case.params, part).double()})
    with pytest.raises(ValueError, match=rf"params\.{part} has dtype torch.float64"):
        input_transform(case.x, floats)


def test_parameters_on_another_device():
    case = make_case(parts=("gain",))
    with pytest.raises(ValueError, match=r"params\.gain lies on meta and x on cpu"):
        input_transform(case.x, TransformParams(gain=case.params.gain.to("meta")))


@pytest.mark.parametrize("channels", [(0, 4), (-1, 2), (1, 1), (2, 1), (0, 3, 1), (1,), 3, slice(0, 3), [0, 3]])
def test_channels_that_the_input_does_not_have(channels):
    case = make_case(parts=("gain",))
    with pytest.raises(ValueError, match=r"params\.channels=.* shape \[3, 3, 6, 5\]; \(begin, end\) with .* end <= 3"):
        input_transform(case.x, case.params._replace(channels=channels))


@pytest.mark.parametrize("centre", [float("nan"), float("inf"), "0.5", None])
def test_centres_that_are_no_number(centre):
    case = make_case(parts=("gain",))
    with pytest.raises(ValueError, match=r"params\.centre=.* is no finite number"):
        input_transform(case.x, case.params._replace(centre=centre))


def test_other_noise_for_a_pass():
    case = make_case(parts=PARTS, centre=0.5, channels=(0, 2))
    gain, noise_std, seed = torch.rand(3), torch.rand(3), torch.arange(3)
    noisy = case.params.with_noise(gain, noise_std, seed)
    assert noisy[5:8] == (gain, noise_std, seed)
    assert all(a is b for a, b in zip(noisy[:5] + noisy[8:], case.params[:5] + case.params[8:], strict=True))


@pytest.mark.parametrize("part", ["noise_std", "seed"])
def test_noise_needs_its_scale_and_its_seed(part):
    case = make_case(parts=("noise_std",))
    with pytest.raises(ValueError, match="belong together"):
        input_transform(case.x, case.params._replace(**{part: None}))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 3, 4), ValueError, r"x has shape \[2, 3, 4\]"),
        (torch.zeros(1, 2, 3, 4, 5), ValueError, "needs"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), TypeError, "x has dtype torch.uint8; allowed are float16"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.complex64), TypeError, "x has dtype"),
        ([[0.0]], TypeError, "x is a list"),
    ],
)
def test_inputs_that_are_no_images(x, error, message):
    with pytest.raises(error, match=message):
        input_transform(x, TransformParams())
