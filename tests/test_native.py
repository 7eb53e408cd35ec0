"""The native operator in torch: against the reference, in every dtype and layout, compiled, saved, differentiated.

test_operator.py runs on both backends; here is what the native one alone must show.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_operator import PARTS, SHAPE, cases, make_case

from gan_regularizers import DiffAugment, DiffusionNoise, InputRegularizer, use_backend
from gan_regularizers.ops import TransformParams, input_transform, native, reference

ops = torch.ops.gan_regularizers
pytestmark = pytest.mark.skipif(bool(native.missing("cpu")), reason=native.missing("cpu"))

# The reference rounds the angle of its normals to float32; all else differs by the order of operations.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 4e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=True)
def _native():
    with use_backend("native"):
        yield


@pytest.mark.parametrize("dtype", TOLERANCES)
@given(data=st.data())
def test_value_and_gradients_equal_the_references(dtype, data):
    """Value, gradient, and the gradient of its square, as R1 takes it."""
    case = data.draw(cases(dtype))
    results = []
    for backend in ("native", "reference"):
        with use_backend(backend):
            x = case.x.clone().requires_grad_()
            weight = torch.linspace(0.5, 1.5, x.numel(), dtype=dtype).view_as(x).requires_grad_()
            y = input_transform(x, case.params)
            (first,) = torch.autograd.grad((y * weight).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), weight)
            results.append((y.detach(), first.detach(), second))
    tolerance = TOLERANCES[dtype]
    assert case.x.numel() == 0 or results[0][0].stride() == results[1][0].stride()
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == expected.dtype == dtype
        # In half precision each derivative of a higher order rounds once more.
        torch.testing.assert_close(actual, expected, rtol=4 * tolerance, atol=4 * tolerance)


@given(st.integers(0, 5), st.integers(0, 2**32), st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=6))
def test_draws_equal_the_references_to_the_bit(samples, seed, bounds):
    words = torch.randint(-(2**63), 2**63 - 1, (7, samples), generator=torch.Generator().manual_seed(seed))
    ranges = [tuple(sorted(bounds[i : i + 2])) for i in range(0, len(bounds) - 1, 2)]
    integers = [(5, 9, -4), (6, 1025, 0), (6, 1025, 512)]
    for actual, expected in zip(
        native.draw(words, ranges, integers), reference.draw(words, ranges, integers), strict=True
    ):
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype


def test_whole_numbers_of_wide_ranges_equal_the_references():
    """A product in float32 is now and then rounded up to a whole number."""
    words = torch.randint(-(2**63), 2**63 - 1, (1, 50_000))
    integers = [(0, count, 0) for count in (1025, 2**20 + 1)]
    (_, actual), (_, expected) = (draws(words, [], integers) for draws in (native.draw, reference.draw))
    assert torch.equal(actual, expected)
    exact = (words[0] >> 40 & 0xFFFFFF) * (2**20 + 1) >> 24
    assert not torch.equal(actual[:, 1], exact)


@pytest.mark.parametrize("shape", [(4,), (0,), (2, 3)])
@pytest.mark.parametrize("is_given", [False, True])
def test_look_ups_equal_the_references_to_the_bit(shape, is_given):
    noise = DiffusionNoise(100)
    words = torch.randint(-(2**63), 2**63 - 1, shape)
    t = torch.randint(0, 101, shape) if is_given else None
    arguments = (words, t, noise.t_list, noise.gain, noise.noise_scale)
    for actual, expected in zip(native.look_up(*arguments), reference.look_up(*arguments), strict=True):
        assert torch.equal(actual, expected)


def test_modules_draw_the_same_on_both_backends():
    regularizer = InputRegularizer(DiffAugment("cutout,color,translation"), DiffusionNoise())
    x = torch.rand(5, 3, 8, 6)
    draws = []
    for backend in ("native", "reference"):
        with use_backend(backend):
            draws.append(regularizer.sample(x, generator=torch.Generator().manual_seed(1)))
    passes = zip(*(draw.augment for draw in draws), strict=True)
    for actual, expected in [*passes, tuple(draw.noise for draw in draws)]:
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


SAMPLES = {
    "all parts": make_case(SHAPE, PARTS, dtype=torch.float32),
    "half": make_case(SHAPE, PARTS, dtype=torch.float16),
    "double": make_case(SHAPE, PARTS),
    "nothing": make_case(SHAPE, ()),
    "one part": make_case(SHAPE, ("contrast",), dtype=torch.float32),
    "a picture": make_case(SHAPE, PARTS, dtype=torch.float32, centre=0.5, channels=(0, 2)),
}


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # on importing inductor
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name, layout):
    case = SAMPLES[name]
    x = case.x.clone().contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(ops.input_transform, (x, *case.params))
    linear = case.params[1:6]
    torch.library.opcheck(ops.input_transform_adjoint, (x, *linear, case.params.channels))


@pytest.mark.parametrize("name", ["input_transform", "input_transform_adjoint", "draw", "look_up"])
def test_a_compiler_keeps_the_order_of_strides(name):
    """The fake kernels give the output the layout of the input that was traced; on GPUs compilers change layouts."""
    assert torch.Tag.needs_fixed_stride_order in getattr(ops, name).default.tags


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_opcheck_of_the_draws():
    words = torch.randint(-(2**63), 2**63 - 1, (5, 4))
    torch.library.opcheck(ops.draw, (words, [1.0, 2.0], [0.0, -1.0], [2, 3, 3], [9, 8, 8], [-4, 0, 4]))
    noise = DiffusionNoise(100)
    tables = (noise.t_list, noise.gain, noise.noise_scale)
    torch.library.opcheck(ops.look_up, (words[0], None, *tables))
    torch.library.opcheck(ops.look_up, (words[0], words[0] % 101, *tables))


@pytest.mark.parametrize("picture", [{}, {"centre": 0.5, "channels": (1, 3)}])
def test_third_derivative(picture):
    """Each order runs through the operator again."""
    case = make_case((2, 3, 4, 3), PARTS, **picture)
    x = case.x.requires_grad_()

    def cubed(x: torch.Tensor) -> torch.Tensor:
        return input_transform(x, case.params).pow(3).sum()

    (first,) = torch.autograd.grad(cubed(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.square().sum(), x)
    with use_backend("reference"):
        (first,) = torch.autograd.grad(cubed(x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(second.square().sum(), x)
    assert expected.abs().max() > 1.0
    torch.testing.assert_close(third, expected, rtol=1e-9, atol=1e-9)


def test_forward_and_backward_keep_no_image():
    """What autograd holds on to is O(N): the parameters."""
    case = make_case((2, 3, 64, 64), PARTS, dtype=torch.float32)
    y = input_transform(case.x.requires_grad_(), case.params)
    kept = [tensor for tensor in y.grad_fn.saved_tensors if tensor is not None]
    assert kept
    assert max(tensor.numel() for tensor in kept) <= 4 * len(case.x)


def test_gradient_of_an_expanded_cotangent():
    case = make_case(SHAPE, PARTS, dtype=torch.float32)
    x = case.x.requires_grad_()
    (actual,) = torch.autograd.grad(input_transform(x, case.params).sum(), x)
    (expected,) = torch.autograd.grad(input_transform(x, case.params), x, torch.ones(SHAPE))
    assert torch.equal(actual, expected)


def test_parameters_of_other_dtypes_and_strides():
    """Integers of 32 bits, doubles, and columns of wider tensors, as a caller may have them."""
    case = make_case(SHAPE, PARTS, dtype=torch.float32)
    wide = torch.zeros(len(case.x), 9, dtype=torch.int64)
    wide[:, 1:5], wide[:, 5:7] = case.params.cutout, case.params.shift
    turned = case.params.cutout.T.contiguous().T
    expected = input_transform(case.x, case.params)
    for cutout, shift in (
        (wide[:, 1:5], wide[:, 5:7]),
        (turned, wide[:, 5:7].int()),
        (case.params.cutout.int(), case.params.shift.T.contiguous().T),
    ):
        assert torch.equal(input_transform(case.x, case.params._replace(cutout=cutout, shift=shift)), expected)
    box = TransformParams(cutout=case.params.cutout)
    assert torch.equal(input_transform(case.x, box._replace(cutout=wide[:, 1:5])), input_transform(case.x, box))
    strided = torch.stack([case.params.gain.float(), torch.zeros(len(case.x))], 1)[:, 0]
    assert torch.equal(input_transform(case.x, case.params._replace(gain=strided)), expected)


def test_the_operators_take_no_picture_for_all_channels_about_zero():
    case = make_case(SHAPE, PARTS, dtype=torch.float32)
    x = case.x.requires_grad_()
    y = ops.input_transform(x, *case.params[:8])
    assert torch.equal(y, input_transform(x, case.params))
    linear = case.params[1:6]
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], ops.input_transform_adjoint(torch.ones_like(y), *linear))
    adjoint = ops.input_transform_adjoint(x, *linear)
    (twice,) = torch.autograd.grad(adjoint.sum(), x)
    assert torch.equal(twice, ops.input_transform(torch.ones_like(x), None, *linear, None, None))


@pytest.mark.filterwarnings("ignore:At pre-dispatch tracing, we will assume:UserWarning")  # torch 2.4, of any operator
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"p": 0.5, "value_range": (0, 1), "channels": slice(0, -1)}], ids=["plain", "a picture"]
)
def test_exported_with_every_size_but_the_channels_varying(settings, strict):
    augment = DiffAugment(**settings)
    varying = {axis: torch.export.Dim(name, min=2, max=2048) for axis, name in ((0, "n"), (2, "height"), (3, "width"))}
    exported = torch.export.export(augment, (torch.rand(4, 4, 16, 16),), dynamic_shapes={"x": varying}, strict=strict)
    assert "gan_regularizers.input_transform.default" in str(exported.graph)
    for shape in ((4, 4, 16, 16), (5, 4, 37, 24), (2, 4, 3, 70)):
        x = torch.rand(shape)
        torch.manual_seed(1)
        expected = augment(x)
        torch.manual_seed(1)
        torch.testing.assert_close(exported.module()(x), expected)


def test_autocast():
    case = make_case(SHAPE, PARTS, dtype=torch.bfloat16)
    convolution = torch.nn.Conv2d(3, 4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        y = input_transform(convolution(case.x)[:, :3].requires_grad_(), case.params)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert convolution.weight.grad.abs().sum() > 0


def test_a_deep_copy_and_an_inference_tensor():
    regularizer = copy.deepcopy(InputRegularizer(DiffAugment(), DiffusionNoise()))
    with torch.inference_mode():
        assert regularizer(torch.rand(2, 3, 8, 8)).isfinite().all()


def test_threads_give_the_same_bits():
    case = make_case((4, 3, 128, 128), PARTS, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(input_transform(case.x, case.params))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def available_memory() -> int:
    """Bytes to be had without swapping: what is free, and what the kernel uses as a cache. 0 where it does not say."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable: +(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return 1024 * int(found[1]) if found else 0


def test_more_than_2_to_the_31_elements():
    n, side = 9, 2**14
    needed = 2 * 2 * n * side * side
    if available_memory() < 1.3 * needed:
        pytest.skip(f"needs {1.3 * needed / 2**30:.0f} GiB of available memory")
    x = torch.empty(n, 1, side, side, dtype=torch.float16)
    x[:] = torch.arange(side, dtype=torch.float16)[:, None] / side
    shift = torch.arange(2 * n).view(n, 2)
    y = input_transform(x, TransformParams(shift=shift, gain=torch.full((n,), 0.5)))
    for sample in (0, 7, 8):  # the last lies beyond
        down, right = shift[sample].tolist()
        assert torch.equal(y[sample, 0, down:, right:], x[sample, 0, : side - down, : side - right] * 0.5)
        assert not y[sample, 0, :down].any()
        assert not y[sample, 0, :, :right].any()
