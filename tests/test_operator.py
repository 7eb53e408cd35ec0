"""The operator's closed form against the step-by-step sequence, and its derivatives."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_regularizers import use_backend
from gan_regularizers.benchmark.baseline import contrast, cutout, official_sequence, saturation, translation
from gan_regularizers.ops import TransformParams, input_transform
from gan_regularizers.ops.philox import philox_normal

PARTS = ("brightness", "saturation", "contrast", "shift", "cutout", "gain", "noise_std")
SHAPE = (3, 3, 6, 5)


@dataclasses.dataclass
class Case:
    x: torch.Tensor
    params: TransformParams
    cutout_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.params.noise_std is not None:
            self.noise = philox_normal(self.params.seed, self.x[:1].numel(), torch.float64).view(self.x.shape)
        else:
            self.noise = None

    def expected(self, x: torch.Tensor | None = None) -> torch.Tensor:
        x = self.x if x is None else x
        return official_sequence(x.double(), self.params, self.noise, self.cutout_size)


def make_case(shape=SHAPE, parts=PARTS, seed=0, dtype=torch.float64) -> Case:
    """Random images and random parameters; boxes overhang as DiffAugment's do, shifts may leave the image."""
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = shape

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float32).double()

    def integers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high + 1, (n,), generator=generator)

    sizes = [int(integers_up_to) for integers_up_to in (uniform(2) * torch.tensor([height, width]) + 0.5)]
    top, left = (integers(0, edge - size % 2) - size // 2 for edge, size in zip((height, width), sizes, strict=True))
    values = {
        "brightness": uniform(n) - 0.5,
        "saturation": uniform(n) * 2,
        "contrast": uniform(n) + 0.5,
        "shift": torch.stack([integers(-height - 1, height + 1), integers(-width - 1, width + 1)], 1),
        "cutout": torch.stack([top, top + sizes[0], left, left + sizes[1]], 1),
        "gain": uniform(n),
        "noise_std": uniform(n),
    }
    params = {name: values[name] for name in parts}
    if "noise_std" in parts:
        params["seed"] = torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)
    x = (2 * uniform(*shape) - 1).to(dtype)
    return Case(x, TransformParams(**params), (sizes[0], sizes[1]))


@st.composite
def cases(draw, dtype=torch.float64) -> Case:
    side = st.integers(1, 9)
    shape = (draw(st.integers(0, 3)), draw(st.sampled_from((1, 3, 4))), draw(side), draw(side))
    parts = draw(st.lists(st.sampled_from(PARTS), unique=True))
    return make_case(shape, parts, draw(st.integers(0, 2**32)), dtype)


@pytest.fixture(params=["reference", "native"], autouse=True)
def _backend(request):
    """Every test of this file runs on both backends."""
    with use_backend(request.param):
        yield


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


@given(cases())
def test_backward_is_the_adjoint(case):
    """The mask first, then the shift reversed, then the colour part, which is its own adjoint."""
    params = case.params
    x = case.x.requires_grad_()
    y = input_transform(x, params)
    cotangent = torch.randn_like(y)
    expected = cotangent
    if params.gain is not None:
        expected = expected * params.gain.view(-1, 1, 1, 1)
    if params.cutout is not None:
        expected = cutout(expected, params.cutout[:, ::2], case.cutout_size)
    if params.shift is not None:
        expected = translation(expected, -params.shift)
    if params.saturation is not None:
        expected = saturation(expected, params.saturation)
    if params.contrast is not None:
        expected = contrast(expected, params.contrast)
    actual = torch.autograd.grad(y, x, cotangent)[0] if params != TransformParams() else cotangent
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)
    if case.x.numel():
        linear = params._replace(brightness=None, noise_std=None, seed=None)
        torch.testing.assert_close(
            (input_transform(x, linear) * cotangent).sum(), (x * actual).sum(), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("parts", [PARTS, *[(part,) for part in PARTS]])
def test_gradients_of_first_and_second_order(parts):
    case = make_case((2, 3, 4, 3), parts)
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


def test_noise_comes_from_the_seed_alone():
    case = make_case(parts=("noise_std",))
    assert torch.equal(input_transform(case.x, case.params), input_transform(case.x, case.params))
    rows = [
        input_transform(case.x[n : n + 1], TransformParams(*(v if v is None else v[n : n + 1] for v in case.params)))
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
