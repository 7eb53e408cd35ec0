"""The GPU suite: ``pytest -m cuda``. It needs one CUDA device, and a second for what crosses devices."""

import math

import pytest
import torch
from test_operator import PARTS, SHAPE, make_case
from torch import nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, InputRegularizer, use_backend, wrap
from gan_regularizers.ops import TransformParams, backend, input_transform, native
from gan_regularizers.spider import Cascade, ImageLatents, signed_inception_distance

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(bool(native.missing("cuda")), reason=native.missing("cuda")),
]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [SHAPE, (2, 3, 32, 32), (2, 3, 71, 83), (2, 3, 256, 256), (1, 4, 72, 80), (2, 1, 90, 90), (3, 2, 1, 20_001)]


@pytest.fixture(autouse=True)
def _native():
    with use_backend("native" if torch.cuda.is_available() else "auto"):
        yield


def on_device(params: TransformParams, device: str = "cuda") -> TransformParams:
    return TransformParams(*(None if value is None else value.to(device) for value in params))


def tolerances(dtype: torch.dtype) -> dict[str, float]:
    """Fast logarithm and sine, and sums in another order, at normals of up to 6.7."""
    tolerance = 5e-6 + torch.finfo(dtype).eps
    return {"rtol": tolerance, "atol": tolerance}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [PARTS, ("noise_std",), ("gain", "contrast", "noise_std"), ("shift", "cutout"), ()])
def test_value_and_gradients_equal_the_cpus_in_float64(parts, shape, layout, dtype):
    case = make_case(shape, parts, dtype=dtype)
    results = []
    for device, precision in (("cuda", dtype), ("cpu", torch.float64)):
        x = case.x.to(device, precision).contiguous(memory_format=layout).requires_grad_()
        weight = torch.linspace(0.5, 1.5, x.numel(), device=device).to(dtype).to(precision).view_as(x).requires_grad_()
        y = input_transform(x, on_device(case.params, device))
        assert y.is_contiguous(memory_format=layout)
        (first,) = torch.autograd.grad((y * weight).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight)
        results.append([tensor.detach().double().cpu() for tensor in (y, first, second)])
    for order, (actual, expected) in enumerate(zip(*results, strict=True)):
        # Each order rounds to the dtype once more.
        scale = (1 + order) * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual / scale, expected / scale, **tolerances(dtype))


@pytest.mark.parametrize("part", PARTS)
def test_r1_gradients_equal_those_on_the_cpu(part):
    case = make_case((3, 3, 16, 16), (part,), dtype=torch.float32)
    torch.manual_seed(5)
    D = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 14 * 14, 1))
    results = []
    for device, precision in (("cuda", torch.float32), ("cpu", torch.float64)):
        D.to(device, precision).zero_grad()
        x = case.x.to(device, precision).requires_grad_()
        logits = D(input_transform(x, on_device(case.params, device)))
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        gradient.square().sum().backward()
        results.append([parameter.grad.double().cpu() for parameter in D.parameters()])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_adjoint():
    case = make_case((2, 3, 40, 36), PARTS, dtype=torch.float32)
    params = on_device(case.params._replace(brightness=None, noise_std=None, seed=None))
    x, y = case.x.cuda().requires_grad_(), torch.randn(2, 3, 40, 36, device="cuda")
    forward = input_transform(x, params)
    (backward,) = torch.autograd.grad(forward, x, y)
    left, right = ((a.double() * b.double()).sum() for a, b in ((forward, y), (x, backward)))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-3)


def test_normals_are_those_of_the_cpu():
    seeds = torch.randint(-(2**63), 2**63 - 1, (50,))
    params = TransformParams(noise_std=torch.ones(50), seed=seeds)
    x = torch.zeros(50, 1, 1, 20_000)
    torch.testing.assert_close(
        input_transform(x.cuda(), on_device(params)).cpu(), input_transform(x, params), rtol=5e-6, atol=5e-6
    )


def test_distribution_of_the_normals():
    """Moments to the fourth, Kolmogorov-Smirnov and the tails of ten million."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(3))
    params = on_device(TransformParams(noise_std=torch.ones(1000), seed=seeds))
    many = input_transform(torch.zeros(1000, 1, 1, 10_000, device="cuda"), params).double().flatten()
    n = len(many)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(many.pow(power).mean()) - moment) < 4 * math.sqrt(variance / n)
    steps = torch.arange(n + 1, dtype=torch.float64, device="cuda") / n
    expected = torch.special.ndtr(many.sort().values)
    distance = torch.maximum(expected - steps[:-1], steps[1:] - expected).max()
    assert float(distance) * math.sqrt(n) < 1.95
    for tail in (many > 4, many < -4):
        expected = 3.1671e-5 * n
        assert abs(int(tail.sum()) - expected) < 4 * math.sqrt(expected)


def test_bits_repeat_and_do_not_depend_on_layout_or_batch():
    case = make_case((4, 3, 64, 64), ("shift", "cutout", "gain", "noise_std"), dtype=torch.float32)
    x, params = case.x.cuda(), on_device(case.params)
    y = input_transform(x, params)
    assert torch.equal(input_transform(x, params), y)
    assert torch.equal(input_transform(x.contiguous(memory_format=torch.channels_last), params), y)
    one = TransformParams(*(None if value is None else value[2:3] for value in params))
    assert torch.equal(input_transform(x[2:3], one), y[2:3])
    contrast = make_case((2, 3, 300, 300), PARTS, dtype=torch.float32)
    x, params = contrast.x.cuda(), on_device(contrast.params)
    results = [input_transform(x, params) for _ in range(5)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_draws_equal_the_cpus_to_the_bit():
    words = torch.randint(-(2**63), 2**63 - 1, (7, 1000))
    ranges, integers = [(-0.5, 0.5), (0.0, 2.0), (0.5, 1.5)], [(3, 9, -4), (4, 9, -4), (5, 33, -8), (5, 33, 8)]
    for actual, expected in zip(
        native.draw(words.cuda(), ranges, integers), native.draw(words, ranges, integers), strict=True
    ):
        assert torch.equal(actual.cpu(), expected)
    noise = DiffusionNoise(100)
    expected = native.look_up(words[0], None, noise.t_list, noise.gain, noise.noise_scale)
    noise.cuda()
    actual = native.look_up(words[0].cuda(), None, noise.t_list, noise.gain, noise.noise_scale)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(actual, expected, strict=True))


def test_tensors_that_are_not_contiguous_or_not_aligned_or_empty():
    case = make_case((2, 3, 8, 12), PARTS, dtype=torch.float32)
    params, x = on_device(case.params), case.x.cuda()
    expected = input_transform(x, params)
    spread = torch.zeros(2, 3, 16, 12, device="cuda")[:, :, ::2].copy_(x)
    shifted = torch.empty(x.numel() + 1, device="cuda")[1:].view(x.shape).copy_(x)
    for other in (spread, shifted):
        torch.testing.assert_close(input_transform(other, params), expected, rtol=1e-6, atol=1e-6)
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4)):
        empty = make_case(shape, ("gain", "contrast"))
        assert input_transform(empty.x.float().cuda(), on_device(empty.params)).shape == shape


def test_float64_says_that_it_has_no_kernel():
    case = make_case(SHAPE, PARTS)
    with pytest.raises(RuntimeError, match="not float64"):
        input_transform(case.x.cuda(), on_device(case.params))
    with use_backend("reference"):
        torch.testing.assert_close(input_transform(case.x.cuda(), on_device(case.params)).cpu(), case.expected())


def regularizer() -> InputRegularizer:
    return InputRegularizer(DiffAugment(), DiffusionNoise()).cuda()


def launches(step) -> int:
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum("memcpy" not in event.name.lower() and "memset" not in event.name.lower() for event in kernels)


def test_launches_of_a_small_batch():
    """At most 4 forward and 3 backward, as the targets have it."""
    module, x = regularizer(), torch.rand(256, 3, 32, 32, device="cuda").requires_grad_()
    cotangent = torch.rand_like(x)
    assert launches(lambda: module(x)) <= 4
    y = module(x)
    assert launches(lambda: torch.autograd.grad(y, x, cotangent, retain_graph=True)) <= 3


def test_no_wait_for_the_device():
    D = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1)).cuda(), DiffAugment(), DiffusionNoise())
    adapt = AdaptiveT(D.input_regularizer.noise)
    x = torch.rand(4, 3, 8, 8, device="cuda")
    adapt.observe(D(x))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits = D(x)
        adapt.observe(logits)
        logits.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_other_stream():
    case = make_case((8, 3, 256, 256), PARTS, dtype=torch.float32)
    x, params = case.x.cuda(), on_device(case.params)
    expected = input_transform(x, params)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        for _ in range(50):
            late = late + x / 50  # work that a kernel on another stream would overtake
        y = input_transform(late, params)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_graph_capture():
    """A captured training step draws afresh at every replay."""
    module, x = regularizer(), torch.rand(4, 3, 32, 32, device="cuda").requires_grad_()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        y = module(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        return y, gradient

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, gradient = step()
    results = []
    for _ in range(2):
        graph.replay()
        results.append((y.clone(), gradient.clone()))
    assert all(tensor.isfinite().all() for pair in results for tensor in pair)
    assert not torch.equal(results[0][0], results[1][0])


def test_replayed_parameters_in_a_graph():
    case = make_case((4, 3, 200, 200), PARTS, dtype=torch.float32)
    x, params = case.x.cuda(), on_device(case.params)
    expected = input_transform(x, params)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = input_transform(x, params)
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_second_device():
    case = make_case((2, 3, 200, 200), PARTS, dtype=torch.float32)
    first, second = (input_transform(case.x.to(d), on_device(case.params, d)) for d in ("cuda:0", "cuda:1"))
    assert second.device.index == 1
    assert torch.equal(first.cpu(), second.cpu())
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        assert torch.equal(input_transform(case.x.to("cuda:0"), on_device(case.params, "cuda:0")).cpu(), first.cpu())
        assert torch.cuda.current_device() == 1
    with pytest.raises(ValueError, match="they need one device"):
        input_transform(case.x.to("cuda:1"), on_device(case.params, "cuda:0"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_training_step_in_channels_last(dtype):
    D = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 14 * 14, 1))
    D = wrap(D.cuda().to(memory_format=torch.channels_last), DiffAugment(), DiffusionNoise())
    x = torch.rand(4, 3, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cuda", dtype):
        logits = D(x)
    (gradient,) = torch.autograd.grad(logits.float().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in D.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the compiler
def test_compiled_training_step():
    D = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1)).cuda(), DiffAugment(), DiffusionNoise())
    x = torch.rand(4, 3, 8, 8, device="cuda")
    compiled = torch.compile(D, fullgraph=True)
    params = D.input_regularizer.sample(x)
    eager = D.discriminator(D.input_regularizer(x, params=params))
    fixed = torch.compile(lambda x: D.discriminator(D.input_regularizer(x, params=params)), fullgraph=True)
    torch.testing.assert_close(fixed(x), eager, rtol=1e-4, atol=1e-4)
    compiled(x).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in D.parameters())


def test_peak_memory():
    """Forward and backward take one output and one gradient, and O(N)."""
    module, x = regularizer(), torch.rand(16, 3, 256, 256, device="cuda").requires_grad_()
    cotangent = torch.rand_like(x)
    torch.autograd.grad(module(x), x, cotangent)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(module(x), x, cotangent)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 2 * x.numel() * 4 + (1 << 20)


def test_more_than_2_to_the_31_elements():
    n, side = 9, 2**14
    if torch.cuda.mem_get_info()[0] < 3 * 2 * n * side * side:
        pytest.skip("needs 15 GiB of free device memory")
    x = torch.empty(n, 1, side, side, dtype=torch.float16, device="cuda")
    x[:] = torch.arange(side, dtype=torch.float16, device="cuda")[:, None] / side
    shift = torch.arange(2 * n).view(n, 2)
    params = on_device(TransformParams(shift=shift, gain=torch.full((n,), 0.5)))
    y = input_transform(x, params)
    for sample in (0, 7, 8):
        down, right = shift[sample].tolist()
        assert torch.equal(y[sample, 0, down:, right:], x[sample, 0, : side - down, : side - right] * 0.5)
    assert torch.equal(input_transform(x, params._replace(shift=None))[8], x[8] * 0.5)


def test_backend_is_native():
    assert backend("cuda")[0] == "native"


@pytest.mark.parametrize("order", [1, -3, 2])
def test_the_signed_inception_distance_is_the_cpus(order):
    source, target = torch.randn(300, 32) * 1.2, torch.randn(250, 32)
    curves = [
        signed_inception_distance(
            source.to(device), target.to(device), order=order, generator=torch.Generator().manual_seed(0)
        )
        for device in ("cuda", "cpu")
    ]
    torch.testing.assert_close(torch.tensor(curves[0].sid), torch.tensor(curves[1].sid), rtol=1e-6, atol=1e-12)
    own = signed_inception_distance(source, target.cuda(), generator=torch.Generator("cuda").manual_seed(0))
    assert math.isfinite(own.csid)


def test_image_latents_are_the_cpus():
    z = torch.randn(64, 64)
    images = torch.randint(0, 256, (9, 3, 40, 40), dtype=torch.uint8)
    on_cpu, moved, made = ImageLatents(images, 64), ImageLatents(images, 64).cuda(), ImageLatents(images.cuda(), 64)
    for latents in (moved, made):
        torch.testing.assert_close(latents(z.cuda()).cpu(), on_cpu(z), rtol=1e-4, atol=1e-4)


def test_a_cascade_of_generators_that_were_trained_on_the_gpu():
    class Toy(nn.Module):
        z_dim = 16

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3 * 64)

        def forward(self, z):
            return self.layer(z).view(-1, 3, 8, 8).tanh()

    cascade = Cascade(Toy().cuda(), Toy().cuda(), Toy().cuda())
    assert {value.device.type for value in cascade.state_dict().values() if value.dtype != torch.uint8} == {"cuda"}
    assert cascade(torch.randn(1, 16, device="cuda")).shape == (1, 3, 8, 8)
