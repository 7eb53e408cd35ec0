"""The native operator in torch: against the reference, in every dtype and layout, compiled, saved, differentiated.

test_operator.py runs on both backends; here is what the native one alone must show.
"""

import contextlib
import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_operator import PARTS, SHAPE, cases, channels_case, make_case
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from gan_regularizers import DiffAugment, DiffusionNoise, InputRegularizer, use_backend
from gan_regularizers.diffaugment import POLICIES
from gan_regularizers.ops import Columns, Steps, TransformParams, input_transform, native, reference

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


def assert_same_draw(words: torch.Tensor, columns: Columns, steps: Steps | None = None) -> None:
    for actual, expected in zip(native.draw(words, columns, steps), reference.draw(words, columns, steps), strict=True):
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype


def columns_of(bounds: list[float], touched_row: int = -1) -> Columns:
    """As many reals as there are pairs of bounds, and three whole numbers, from seven rows of words."""
    ranges = [sorted(bounds[i : i + 2]) for i in range(0, len(bounds) - 1, 2)]
    return Columns(
        real_row=tuple(range(len(ranges))),
        scale=tuple([high - low for low, high in ranges]),
        low=tuple([low for low, _ in ranges]),
        neutral=(0.0, 1.0, -2.5)[: len(ranges)],
        row=(5, 6, 6),
        count=(9, 1025, 1025),
        offset=(-4, 0, 512),
        touched_row=touched_row,
        p=0.3,
    )


@given(
    st.integers(0, 5),
    st.integers(0, 2**32),
    st.lists(st.floats(-3, 3, width=32), max_size=6),
    st.integers(-1, 6),
    st.sampled_from([None, False, True]),
)
def test_draws_equal_the_references_to_the_bit(samples, seed, bounds, touched_row, given_t):
    words = torch.randint(-(2**63), 2**63 - 1, (7, samples), generator=torch.Generator().manual_seed(seed))
    noise = DiffusionNoise(100)
    steps = None
    if given_t is not None:
        steps = Steps(3, words[2] % 101 if given_t else None, noise.t_list, noise.gain, noise.noise_scale)
    assert_same_draw(words, columns_of(bounds, touched_row), steps)


def test_whole_numbers_of_wide_ranges_equal_the_references():
    """A product in float32 is now and then rounded up to a whole number."""
    words = torch.randint(-(2**63), 2**63 - 1, (1, 50_000))
    columns = Columns(row=(0, 0), count=(1025, 2**20 + 1), offset=(0, 0))
    assert_same_draw(words, columns)
    exact = (words[0] >> 40 & 0xFFFFFF) * (2**20 + 1) >> 24
    assert not torch.equal(native.draw(words, columns)[1][:, 1], exact)


def test_only_where_p_says_so_is_a_sample_touched():
    words = torch.randint(-(2**63), 2**63 - 1, (7, 4096))
    columns = columns_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], touched_row=4)
    (reals, whole, _), (all_reals, all_whole, _) = (
        native.draw(words, drawn) for drawn in (columns, columns._replace(touched_row=-1))
    )
    touched = (words[4] >> 40 & 0xFFFFFF).double() / 2**24 < columns.p
    assert 0.25 < touched.double().mean() < 0.35
    assert torch.equal(reals, torch.where(touched, all_reals, torch.tensor(columns.neutral)[:, None]))
    assert torch.equal(whole, all_whole * touched[:, None])


class Launches:
    """The kernels, which note their calls."""

    def __init__(self, kernels: ModuleType) -> None:
        self.kernels, self.calls = kernels, []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def launch(*arguments: Any) -> None:
            self.calls.append(name)
            getattr(self.kernels, name)(*arguments)

        return launch


@pytest.fixture
def launches(monkeypatch) -> Launches:
    noted = Launches(native._kernels.cpu)
    monkeypatch.setattr(native, "_kernels_for", lambda _: (noted, ()))
    return noted


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_a_forward_is_two_launches_and_a_backward_one(launches, p):
    regularizer = InputRegularizer(DiffAugment(p=p), DiffusionNoise())
    x = torch.rand(4, 3, 8, 8).requires_grad_()
    y = regularizer(x)
    assert launches.calls == ["draw", "transform"]
    torch.autograd.grad(y.sum(), x)
    assert launches.calls == ["draw", "transform", "transform"]


def test_each_pass_is_drawn_in_one_launch(launches):
    InputRegularizer(DiffAugment("cutout,color,translation,color", p=0.5), DiffusionNoise())(torch.rand(4, 3, 8, 8))
    assert sorted(launches.calls) == ["draw"] * 3 + ["transform"] * 3
    launches.calls.clear()
    InputRegularizer(DiffusionNoise())(torch.rand(4, 3, 8, 8))
    assert launches.calls == ["draw", "transform"]


@given(
    policy=st.lists(st.sampled_from(POLICIES), max_size=4).map(",".join),
    p=st.sampled_from([1.0, 0.5]),
    noise=st.sampled_from(["none", "first", "rides", "of another picture", "per channel"]),
    picture=st.sampled_from([{}, {"value_range": (0, 1), "channels": slice(1, 3)}]),
    t=st.sampled_from([None, 7]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    shape=st.sampled_from([(4, 3, 8, 8), (3, 4, 5, 7), (0, 3, 4, 4)]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_a_fresh_draw_does_what_its_replay_does(policy, p, noise, picture, t, dtype, shape, layout):
    """To the bit, forward, backward and beyond: the replay reads tensors, the fresh draw what lies in memory."""
    augment = DiffAugment(policy, p=p, **picture)
    other = {"value_range": (0, 255)} if noise == "of another picture" else picture
    per_channel = noise == "per channel"
    noises = [] if noise == "none" else [DiffusionNoise(per_channel=per_channel, **({} if per_channel else other))]
    regularizer = InputRegularizer(*noises, augment) if noise == "first" else InputRegularizer(augment, *noises)
    x = torch.rand(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    torch.manual_seed(1)
    params = regularizer.sample(x, t if noises else None)
    torch.manual_seed(1)
    fresh, replayed = (
        regularizer(x, t if noises else None, return_t=True),
        regularizer(x, params=params, return_t=True),
    )
    for actual, expected in zip(fresh, replayed, strict=True):
        assert torch.equal(actual, expected)
    assert fresh[0].stride() == replayed[0].stride()
    if policy or noises:
        first = [torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0] for y, _ in (fresh, replayed)]
        assert torch.equal(*first)
        assert torch.equal(*[torch.autograd.grad(gradient.square().sum(), x)[0] for gradient in first])


@pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast:FutureWarning")  # of torch 2.4's checkpoint
@pytest.mark.parametrize("side", ["forward", "backward"])
def test_a_mode_may_see_one_run_alone_of_what_is_checkpointed(side):
    """As one that counts the operations of a forward pass."""

    def mode(of: str) -> contextlib.AbstractContextManager:
        return Seen() if side == of else contextlib.nullcontext()

    x = torch.rand(4, 3, 8, 8).requires_grad_()
    regularizer = InputRegularizer(DiffAugment(), DiffusionNoise())
    with mode("forward"):
        y = checkpoint(regularizer, x, use_reentrant=False)
    with mode("backward"):
        y.square().sum().backward()
    assert x.grad.any()


def test_words_may_lie_in_any_order():
    augment, noise = DiffAugment(), DiffusionNoise()
    words = torch.randint(-(2**63), 2**63 - 1, (augment.words + noise.words, 4))
    drawn = [
        native.drawn_transform(
            torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
            given,
            *augment.columns(torch.empty(4, 3, 8, 8)),
            noise.steps(noise.chain(words), None, (4,), words.device, augment.words),
            0.0,
            None,
        )
        for given in (words, words.t().contiguous().t())
    ]
    for actual, expected in zip(*drawn, strict=True):
        assert torch.equal(actual, expected)


SOME_CHANNELS = {"value_range": (0.0, 1.0), "channels": slice(0, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("module", "options"),
    [
        (DiffAugment(), {}),
        (DiffAugment("cutout,color", p=0.5, **SOME_CHANNELS), {}),
        (DiffusionNoise(), {}),
        (DiffusionNoise(), {"t": 7}),
        (DiffusionNoise(**SOME_CHANNELS), {"t": torch.arange(8)}),
    ],
)
def test_a_module_draws_in_its_pass(module, options, layout, dtype, monkeypatch):
    """No parameters are made, and all is as if the same draw were replayed."""
    x = torch.rand(8, 4, 9, 10, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    told = {"return_t": True} if isinstance(module, DiffusionNoise) else {}
    params = module.sample(x, **options, generator=torch.Generator().manual_seed(1))
    expected = module(x, params=params, **told)
    for owner in ("diffaugment", "diffusion_noise"):
        monkeypatch.setattr(f"gan_regularizers.{owner}.draw", None)
    y = module(x, **options, **told, generator=torch.Generator().manual_seed(1))
    if told:
        (y, t), (expected, steps) = y, expected
        assert torch.equal(t, steps)
    assert torch.equal(y, expected)
    assert y.stride() == x.stride()
    cotangent = torch.randn_like(y)
    assert torch.equal(*(torch.autograd.grad(out, x, cotangent)[0] for out in (y, expected)))


def test_steps_are_the_callers_to_change():
    x = torch.rand(4, 3, 8, 8).requires_grad_()
    y, t = InputRegularizer(DiffAugment(), DiffusionNoise())(x, return_t=True)
    t += 1
    y.sum().backward()


@pytest.mark.parametrize("is_fresh", [False, True])
def test_a_backward_pass_reads_what_hooks_have_saved_otherwise(is_fresh):
    regularizer, x = InputRegularizer(DiffAugment(), DiffusionNoise()), torch.rand(4, 3, 8, 8).requires_grad_()
    params = regularizer.sample(x)
    gradients = []
    for change in (lambda saved: saved, lambda saved: saved.double() if saved.is_floating_point() else saved.int()):
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(change, lambda saved: saved):
            y = regularizer(x) if is_fresh else regularizer(x, params=params)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        gradients.append((first, *torch.autograd.grad(first.square().sum(), x)))
    for actual, expected in zip(*gradients, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.skipif(not native._KEYS_ARE_BITS, reason="torch before 2.5 does not tell a tensor's dispatch keys")
def test_plain_tensors_take_no_way_through_the_dispatcher(monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("an operator was called")

    operators = dict.fromkeys(("input_transform", "input_transform_adjoint", "draw"), refuse)
    monkeypatch.setattr(native, "_operators", SimpleNamespace(**operators))
    regularizer = InputRegularizer(DiffAugment(), DiffusionNoise())
    x = torch.nn.Parameter(torch.rand(4, 3, 8, 8))
    (gradient,) = torch.autograd.grad(regularizer(x).square().sum(), x, create_graph=True)
    torch.autograd.grad(gradient.square().sum(), x)
    with torch.inference_mode():
        regularizer(x)

    class Other(torch.Tensor):
        pass

    with pytest.raises(AssertionError, match="an operator was called"):
        regularizer(x.detach().as_subclass(Other))


class Seen(TorchDispatchMode):
    """The names of the operators that a mode is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, _, args=(), kwargs=None):
        self.names.append(operator.__name__)
        return operator(*args, **(kwargs or {}))


def test_a_mode_is_shown_operators():
    regularizer = InputRegularizer(DiffAugment(), DiffusionNoise())
    x = torch.rand(4, 3, 8, 8).requires_grad_()
    with Seen() as seen:
        regularizer(x).sum().backward()
    assert {"draw.default", "input_transform.default", "input_transform_adjoint.default"} <= set(seen.names)


def test_views_of_another_sign_are_read_as_what_they_are():
    """The imaginary part of a conjugate is the memory of its negative."""
    case = make_case(SHAPE, PARTS, dtype=torch.float32)
    x = torch.complex(case.x, -case.x).conj().imag
    gain = torch.complex(case.params.gain, -case.params.gain).conj().imag
    assert x.is_neg()
    assert gain.is_neg()
    expected = input_transform(case.x, case.params)
    assert torch.equal(input_transform(x, case.params._replace(gain=gain)), expected)
    assert torch.equal(input_transform(case.x, case.params._replace(gain=gain)), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_no_tangent_of_a_cotangent_is_lost():
    """As of a D whose weights have tangents: the images, which have none, go to the kernels."""
    x, weight, direction = (torch.rand(SHAPE) for _ in range(3))
    y = InputRegularizer(DiffAugment(), DiffusionNoise())(x.requires_grad_())
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        torch.autograd.grad(y, x, forward_ad.make_dual(weight, direction))


@pytest.mark.parametrize("policy", [*POLICIES, "translation,cutout", "color,translation,cutout", ""])
def test_gradients_of_a_batch_of_cotangents(policy):
    """Torch makes them of tensors that only its dispatcher can read; so is what was drawn without any."""
    case = make_case(SHAPE, PARTS, dtype=torch.float32)
    x = case.x.requires_grad_()
    cotangents = torch.rand(3, *SHAPE)
    for y in (input_transform(x, case.params), InputRegularizer(DiffAugment(policy), DiffusionNoise())(x)):
        weight = torch.ones_like(y).requires_grad_()
        (gradient,) = torch.autograd.grad(y, x, weight, create_graph=True)
        for output, of in ((y, x), (gradient, weight)):
            (batched,) = torch.autograd.grad(output, of, cotangents, is_grads_batched=True, retain_graph=True)
            for actual, cotangent in zip(batched, cotangents, strict=True):
                assert torch.equal(actual, torch.autograd.grad(output, of, cotangent, retain_graph=True)[0])


@pytest.mark.usefixtures("seeds_everywhere")
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
    "values for every channel": channels_case(SHAPE, dtype=torch.float32, centre=0.5),
}


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # on importing inductor
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch 2.14 itself
def test_opcheck(name, layout):
    case = SAMPLES[name]
    x = case.x.clone().contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(ops.input_transform, (x, *case.params[:10]))
    linear = case.params[1:6]
    torch.library.opcheck(ops.input_transform_adjoint, (x, *linear, case.params.channels))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("parts", [("gain", "noise_std"), ("gain",), ("noise_std",)])
def test_rows_in_place_of_channels(parts, adjoint, layout):
    """As CUDA has them."""
    case = channels_case(SHAPE, dtype=torch.float32, centre=0.5, parts=parts)
    x, params = case.x.contiguous(memory_format=layout), native._ready(case.params, case.x)
    assert torch.equal(native._transform_rows(x, adjoint, params), native._transform(x, adjoint, params))


@pytest.mark.parametrize("name", ["input_transform", "input_transform_adjoint", "draw"])
def test_a_compiler_keeps_the_order_of_strides(name):
    """The fake kernels give the output the layout of the input that was traced; on GPUs compilers change layouts."""
    assert torch.Tag.needs_fixed_stride_order in getattr(ops, name).default.tags


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_opcheck_of_the_draws():
    words = torch.randint(-(2**63), 2**63 - 1, (7, 4))
    noise = DiffusionNoise(100)
    tables = (noise.t_list, noise.gain, noise.noise_scale)
    for steps in (Steps(3, None, *tables), Steps(3, words[0] % 101, *tables), Steps(-1, None, None, None, None)):
        torch.library.opcheck(ops.draw, (words, *columns_of([0.0, 1.0, 2.0, 4.0], 4), *steps))


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
