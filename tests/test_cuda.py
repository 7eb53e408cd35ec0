"""The GPU suite: ``pytest -m cuda``. It needs one CUDA device, and a second for what crosses devices.

With GAN_REGULARIZERS_TEST_DEVICE=cpu all that does not need CUDA itself runs on the CPU.
"""

import copy
import math
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
import test_distributed
import test_draws
import torch
from kernel_calls import each
from plain_normals import BLOCKS, normal_block
from test_operator import PARTS, PICTURES, SHAPE, Case, make_case
from torch import nn
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, InputRegularizer, use_backend, wrap
from gan_regularizers.commands.bench.footprint import kernel_launches, peak_bytes
from gan_regularizers.ops import Columns, Steps, TransformParams, backend, input_transform, native
from gan_regularizers.spider import Cascade, ImageLatents, signed_inception_distance
from gan_regularizers.state.chain import Chain

DEVICE = os.environ.get("GAN_REGULARIZERS_TEST_DEVICE", "cuda")

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(bool(native.missing(DEVICE)), reason=native.missing(DEVICE)),
    # What torch says once of its own: of a backward pass whose first kernel is cuBLAS's, and of a step of Adam before
    # the capture that it is made for.
    pytest.mark.filterwarnings(
        "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning",
        "ignore:This instance was constructed with capturable=True:UserWarning",
    ),
]
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA's streams, its memory or what it says of itself")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [SHAPE, (2, 3, 32, 32), (2, 3, 71, 83), (2, 3, 256, 256), (1, 4, 72, 80), (2, 1, 90, 90), (3, 2, 1, 20_001)]


@pytest.fixture(autouse=True)
def _native():
    with use_backend("auto" if native.missing(DEVICE) else "native"):
        yield


def on_device(params: TransformParams, device: str = DEVICE) -> TransformParams:
    return each(params, lambda value: value.to(device))


def tolerances(dtype: torch.dtype) -> dict[str, float]:
    """Fast logarithm and sine, and sums in another order, at normals of up to 6.7.

    Against float64 the rounding of a uniform near 1 comes to it: a pair of normals with r < 0.006, one in 60,000, may
    be off by more. The seeds here draw none that is.
    """
    tolerance = 5e-6 + torch.finfo(dtype).eps
    return {"rtol": tolerance, "atol": tolerance}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [PARTS, ("noise_std",), ("gain", "contrast", "noise_std"), ("shift", "cutout"), ()])
def test_value_and_gradients_equal_the_cpus_in_float64(parts, shape, layout, dtype):
    check_value_and_gradients(make_case(shape, parts, dtype=dtype), layout, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (2, 4, 256, 256), (1, 4, 71, 83)])
@pytest.mark.parametrize("picture", PICTURES)
def test_value_and_gradients_of_pictures_equal_the_cpus_in_float64(picture, shape, layout, dtype):
    check_value_and_gradients(make_case(shape, PARTS, dtype=dtype, **picture), layout, dtype)


def check_value_and_gradients(case: Case, layout: torch.memory_format, dtype: torch.dtype) -> None:
    results = []
    for device, precision in ((DEVICE, dtype), ("cpu", torch.float64)):
        x = case.x.detach().to(device, precision).contiguous(memory_format=layout).requires_grad_()
        weight = torch.linspace(0.5, 1.5, x.numel()).to(dtype).to(device, precision).view_as(x).requires_grad_()
        y = input_transform(x, on_device(case.params, device))
        assert y.is_contiguous(memory_format=layout)
        (first,) = torch.autograd.grad((y * weight).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight)
        results.append([tensor.detach().double().cpu() for tensor in (y, first, second)])
    for order, (actual, expected) in enumerate(zip(*results, strict=True)):
        # Each order rounds to the dtype once more.
        scale = (1 + order) * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual / scale, expected / scale, **tolerances(dtype))


def discriminator() -> nn.Module:
    """A small one for images of 16 x 16, always the same."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 14 * 14, 1)).to(DEVICE)


@pytest.mark.parametrize("part", PARTS)
def test_r1_gradients_equal_those_on_the_cpu(part):
    """D is in float64 on both, where convolutions know no TF32."""
    case = make_case((3, 3, 16, 16), (part,), dtype=torch.float32)
    results = []
    for device, precision in ((DEVICE, torch.float32), ("cpu", torch.float64)):
        D = discriminator().to(device, torch.float64)
        x = case.x.detach().to(device, precision).requires_grad_()
        logits = D(input_transform(x, on_device(case.params, device)).double())
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        # No gradient of x depends on D's last bias.
        second = torch.autograd.grad(gradient.square().sum(), list(D.parameters()), materialize_grads=True)
        results.append([tensor.double().cpu() for tensor in second])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_adjoint():
    case = make_case((2, 3, 40, 36), PARTS, dtype=torch.float32)
    params = on_device(case.params._replace(brightness=None, noise_std=None, seed=None))
    x, y = case.x.to(DEVICE).requires_grad_(), torch.randn(2, 3, 40, 36, device=DEVICE)
    forward = input_transform(x, params)
    (backward,) = torch.autograd.grad(forward, x, y)
    left, right = ((a.double() * b.double()).sum() for a, b in ((forward, y), (x, backward)))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-3)


def test_normals_are_those_of_the_cpu():
    seeds = torch.randint(-(2**63), 2**63 - 1, (50,))
    params = TransformParams(noise_std=torch.ones(50), seed=seeds)
    x = torch.zeros(50, 1, 1, 20_000)
    torch.testing.assert_close(
        input_transform(x.to(DEVICE), on_device(params)).cpu(), input_transform(x, params), rtol=5e-6, atol=5e-6
    )


@pytest.mark.parametrize(("seed", "block"), [at for at in BLOCKS if at[1] <= 2**20 + 1])
def test_normals_at_the_ends_of_their_ranges(seed, block):
    params = TransformParams(noise_std=torch.ones(1), seed=torch.tensor([seed]))
    y = input_transform(torch.zeros(1, 1, 1, 4 * block + 4, device=DEVICE), on_device(params))
    assert y.flatten()[-4:].tolist() == pytest.approx(normal_block(seed, block), abs=5e-6)


def test_a_mean_over_more_slices_than_a_block_has_threads():
    x = torch.zeros(1, 1, 1, 257 * 2**14 + 5, device=DEVICE)
    x[..., -1] = x.numel()
    params = TransformParams(contrast=torch.zeros(1, device=DEVICE))
    torch.testing.assert_close(input_transform(x, params), torch.ones_like(x))


def test_all_that_is_drawn_is_independent():
    regularizer = InputRegularizer(DiffAugment(test_draws.AUGMENT), DiffusionNoise(clean_share=0.0))
    x = torch.zeros((), device=DEVICE).expand(test_draws.N, 2, 16, 24)
    drawn = [tree_map_only(torch.Tensor, torch.Tensor.cpu, regularizer.sample(x)) for _ in range(2)]
    now, later = map(test_draws.of_draw, drawn)
    test_draws.assert_independent(now, now)
    test_draws.assert_independent(now, later)


def test_the_step_that_is_returned_is_the_one_that_was_taken():
    noise = test_draws.telling_noise()
    y, t = noise(test_draws.X.to(DEVICE), return_t=True)
    test_draws.assert_diffused(noise, y.cpu(), t.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_draw_does_what_its_replay_does(dtype):
    regularizer = InputRegularizer(DiffAugment("cutout,color,translation", p=0.5), DiffusionNoise())
    x = torch.rand(8, 3, 16, 16, device=DEVICE).to(dtype).requires_grad_()
    torch.manual_seed(1)
    params = regularizer.sample(x)
    torch.manual_seed(1)
    fresh, replayed = regularizer(x), regularizer(x, params=params)
    assert torch.equal(fresh, replayed)
    assert torch.equal(*[torch.autograd.grad(y.pow(3).sum(), x)[0] for y in (fresh, replayed)])


def test_distribution_of_the_normals():
    """Moments to the fourth, Kolmogorov-Smirnov and the tails of ten million."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(3))
    params = on_device(TransformParams(noise_std=torch.ones(1000), seed=seeds))
    many = input_transform(torch.zeros(1000, 1, 1, 10_000, device=DEVICE), params).double().flatten()
    n = len(many)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(many.pow(power).mean()) - moment) < 4 * math.sqrt(variance / n)
    steps = torch.arange(n + 1, dtype=torch.float64, device=DEVICE) / n
    expected = torch.special.ndtr(many.sort().values)
    distance = torch.maximum(expected - steps[:-1], steps[1:] - expected).max()
    assert float(distance) * math.sqrt(n) < 1.95
    for tail in (many > 4, many < -4):
        expected = 3.1671e-5 * n
        assert abs(int(tail.sum()) - expected) < 4 * math.sqrt(expected)


def test_bits_repeat_and_do_not_depend_on_layout_or_batch():
    case = make_case((4, 3, 64, 64), ("shift", "cutout", "gain", "noise_std"), dtype=torch.float32)
    x, params = case.x.to(DEVICE), on_device(case.params)
    y = input_transform(x, params)
    assert torch.equal(input_transform(x, params), y)
    assert torch.equal(input_transform(x.contiguous(memory_format=torch.channels_last), params), y)
    one = each(params, lambda value: value[2:3])
    assert torch.equal(input_transform(x[2:3], one), y[2:3])
    contrast = make_case((2, 3, 300, 300), PARTS, dtype=torch.float32)
    x, params = contrast.x.to(DEVICE), on_device(contrast.params)
    results = [input_transform(x, params) for _ in range(5)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_draws_equal_the_cpus_to_the_bit():
    words = torch.randint(-(2**63), 2**63 - 1, (7, 1000))
    noise = DiffusionNoise(100)
    columns = Columns(
        (0, 1, 2),
        (1.0, 2.0, 1.0),
        (-0.5, 0.0, 0.5),
        (0.0, 1.0, 1.0),
        (3, 4, 5, 5),
        (9, 9, 33, 33),
        (-4, -4, -8, 8),
        6,
        0.4,
    )
    steps = Steps(5, None, noise.t_list, noise.gain, noise.noise_scale)
    expected = native.draw(words, columns, steps)
    steps = Steps(*[value.to(DEVICE) if isinstance(value, torch.Tensor) else value for value in steps])
    actual = native.draw(words.to(DEVICE), columns, steps)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(actual, expected, strict=True))


def test_tensors_that_are_not_contiguous_or_not_aligned_or_empty():
    case = make_case((2, 3, 8, 12), PARTS, dtype=torch.float32)
    params, x = on_device(case.params), case.x.to(DEVICE)
    expected = input_transform(x, params)
    spread = torch.zeros(2, 3, 16, 12, device=DEVICE)[:, :, ::2].copy_(x)
    shifted = torch.empty(x.numel() + 1, device=DEVICE)[1:].view(x.shape).copy_(x)
    for other in (spread, shifted):
        torch.testing.assert_close(input_transform(other, params), expected, rtol=1e-6, atol=1e-6)
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4)):
        empty = make_case(shape, ("gain", "contrast"))
        assert input_transform(empty.x.float().to(DEVICE), on_device(empty.params)).shape == shape


@needs_cuda
def test_float64_says_that_it_has_no_kernel():
    case = make_case(SHAPE, PARTS)
    with pytest.raises(RuntimeError, match="not float64"):
        input_transform(case.x.to(DEVICE), on_device(case.params))
    with use_backend("reference"):
        torch.testing.assert_close(input_transform(case.x.to(DEVICE), on_device(case.params)).cpu(), case.expected())


def regularizer() -> InputRegularizer:
    return InputRegularizer(DiffAugment(), DiffusionNoise()).to(DEVICE)


@needs_cuda
def test_launches_of_a_small_batch():
    """The random words, the parameters and the pass; backward the pass alone."""
    module, x = regularizer(), torch.rand(256, 3, 32, 32, device=DEVICE).requires_grad_()
    y, cotangent = module(x), torch.rand_like(x)

    def backward() -> None:
        torch.autograd.grad(y, x, cotangent, retain_graph=True)

    backward()
    # None at all is a profiler that sees none.
    assert 0 < kernel_launches(lambda: module(x), DEVICE) <= 3
    assert kernel_launches(backward, DEVICE) == 1


class Training:
    """D's steps as a person writes them: logistic loss, R1, AdaptiveT and Adam, in half precision with autocast."""

    def __init__(self, dtype: torch.dtype = torch.float32, layout: torch.memory_format = torch.contiguous_format):
        self.D = wrap(discriminator().to(memory_format=layout), DiffAugment(), DiffusionNoise(), tell="nothing")
        self.adapt = AdaptiveT(self.D, interval=2, kimg=0.1, initial_p=0.5)
        # Fused, Adam keeps its count of steps in tensors on the CPU too.
        self.optimizer = torch.optim.Adam(self.D.parameters(), lr=1e-2, fused=True, capturable=True)
        self.scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, enabled=dtype == torch.float16)
        self.real, self.fake = (
            torch.randn(8, 3, 16, 16).to(DEVICE, dtype).contiguous(memory_format=layout) for _ in range(2)
        )

    def step(self) -> torch.Tensor:
        """The logits of the reals; whoever trains also calls ``adapt.step``, which waits for the device."""
        self.optimizer.zero_grad()
        real = self.real.detach().requires_grad_()
        with torch.autocast(DEVICE, real.dtype, enabled=real.dtype != torch.float32):
            real_logits, fake_logits = self.D(real), self.D(self.fake)
        loss = (softplus(-real_logits.float()) + softplus(fake_logits.float())).mean()
        (gradient,) = torch.autograd.grad(self.scaler.scale(real_logits.float().sum()), real, create_graph=True)
        penalty = (gradient.float() / self.scaler.get_scale()).square().sum((1, 2, 3)).mean()
        self.scaler.scale(loss + penalty).backward()
        self.adapt.observe(real_logits)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return real_logits.detach()

    def state(self) -> list[torch.Tensor]:
        return [*self.D.parameters(), *self.adapt.buffers()]


@needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_no_wait_for_the_device():
    training = Training()
    training.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_other_stream():
    case = make_case((8, 3, 256, 256), PARTS, dtype=torch.float32)
    x, params = case.x.to(DEVICE), on_device(case.params)
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


@needs_cuda
def test_a_second_stream_while_the_first_one_works():
    """Forward and backward, with memory that changes hands all the time."""
    case = make_case((8, 3, 256, 256), PARTS, dtype=torch.float32)
    x, params = case.x.to(DEVICE), on_device(case.params)
    cotangent = torch.rand_like(x)

    def passes(x: torch.Tensor) -> torch.Tensor:
        x.requires_grad_()
        y = input_transform(x, params)
        return torch.stack([y.detach(), *torch.autograd.grad(y, x, cotangent)])

    expected, wrong = passes(x.clone()), torch.zeros((), dtype=torch.int64, device=DEVICE)
    stream = torch.cuda.Stream()
    for _ in range(100):
        lent = x.clone()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            wrong += (passes(lent) != expected).sum()
        lent.record_stream(stream)
        del lent
        for _ in range(4):
            torch.full_like(x, math.nan)  # into whatever memory the allocator takes for free
    torch.cuda.current_stream().wait_stream(stream)
    assert int(wrong) == 0


@needs_cuda
@pytest.mark.parametrize("shape", [(64, 3, 256, 256), (3, 3, 1024, 1024), (200, 1, 129, 131)])
def test_blocks_that_wait_for_the_sums_of_others(shape):
    """Two launches at once, so that they take each other's places; a wait for a block without one would never end."""
    case = make_case(shape, PARTS, dtype=torch.float32)
    x, params = case.x.to(DEVICE), on_device(case.params)
    with use_backend("reference"):
        expected = input_transform(x, params)
    first = input_transform(x, params)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(first / scale, expected / scale, rtol=1e-5, atol=1e-5)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    wrong = [torch.zeros((), dtype=torch.int64, device=DEVICE) for _ in streams]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(20):
        for stream, count in zip(streams, wrong, strict=True):
            with torch.cuda.stream(stream):
                count += (input_transform(x, params) != first).sum()
    torch.cuda.synchronize()
    assert [int(count) for count in wrong] == [0, 0]


class Recording(TorchDispatchMode):
    """In place of torch.cuda.CUDAGraph on the CPU: the same operations again on the same tensors, without Python."""

    def __init__(self, on_the_host: Sequence[torch.Tensor] = ()):
        super().__init__()
        self.calls = []
        self.on_the_host = on_the_host  # which may be read there

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            assert any(args[0] is value for value in self.on_the_host), "a graph cannot wait for a value"
            return func(*args)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            for before, now in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(before, torch.Tensor):
                    before.copy_(now)


def captured(step: Callable[[], Any], *noises: DiffusionNoise) -> tuple[Any, Any]:
    """The graph of a step, in which these noises run, and the step's results, which every replay writes anew."""
    if DEVICE == "cpu":
        step()
        for noise in noises:  # as on CUDA, tables at addresses of their own
            chains, device = noise._chains, torch.device(DEVICE)
            chains._fixed[device] = Chain(*(table.clone() for table in chains.on(device)))
        with (
            Recording([value for noise in noises for value in (noise.p, noise.redraws)]) as graph,
            mock.patch("gan_regularizers.state.chain.is_captured", return_value=True),
        ):
            return graph, step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        return graph, step()


def test_a_captured_pass_draws_afresh_at_every_replay():
    module, x = regularizer(), torch.rand(4, 3, 32, 32, device=DEVICE).requires_grad_()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        y = module(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        return y.detach(), gradient

    graph, (y, gradient) = captured(step, module.noise)
    results = []
    for _ in range(2):
        graph.replay()
        results.append((y.clone(), gradient.clone()))
    assert all(tensor.isfinite().all() for pair in results for tensor in pair)
    assert not torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


def test_replayed_parameters_in_a_graph():
    case = make_case((4, 3, 200, 200), PARTS, dtype=torch.float32)
    x, params = case.x.to(DEVICE), on_device(case.params)
    graph, y = captured(lambda: input_transform(x, params))
    y.zero_()
    graph.replay()
    assert torch.equal(y, input_transform(x, params))


def test_captured_training_steps_are_those_of_eager_mode():
    """R1, the statistic and Adam included; between replays AdaptiveT moves T and draws another list."""
    captive = Training()
    graph, logits = captured(captive.step, captive.adapt.noise)
    eager = copy.deepcopy(captive)
    before = [parameter.detach().clone() for parameter in captive.D.parameters()]
    redraws = captive.adapt.noise.redraws.clone()
    for iteration in range(4):  # two intervals of AdaptiveT
        torch.manual_seed(iteration)
        graph.replay()
        torch.manual_seed(iteration)
        torch.testing.assert_close(logits, eager.step(), rtol=1e-3, atol=1e-3)
        for training in (captive, eager):
            training.adapt.step(8)
        torch.testing.assert_close(captive.state(), eager.state(), rtol=1e-3, atol=1e-3, equal_nan=True)
    assert int(captive.adapt.noise.redraws) == int(redraws) + 2
    for start, end in zip(before, captive.D.parameters(), strict=True):
        assert end.isfinite().all()
        assert not torch.equal(start, end)


def test_outputs_seen_first_in_inference_mode():
    adapt = AdaptiveT(DiffusionNoise(100), interval=1).to(DEVICE)
    logits = torch.tensor([1.0, 1.0, 1.0, -1.0], device=DEVICE)
    adapt.noise(logits)  # one that never ran would be noticed
    with torch.inference_mode():
        adapt.observe(logits)
    adapt.observe(-logits)
    adapt.step(8)
    assert float(adapt.r_d) == 0.0


@test_distributed.pytestmark
def test_two_processes_on_one_device_agree_with_one_that_saw_everything(tmp_path):
    ranks = test_distributed.spawn(tmp_path, DEVICE)
    test_distributed.test_ranks_agree_with_one_process_that_saw_everything(ranks)
    test_distributed.test_data_parallel_training_of_a_wrapped_discriminator(ranks)


@needs_cuda
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
def test_training_under_autocast_in_channels_last(dtype):
    training, seen = Training(dtype, torch.channels_last), []
    training.D.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    before = [parameter.detach().clone() for parameter in training.D.parameters()]
    for _ in range(4):
        training.step()
        training.adapt.step(8)
    assert len(seen) == 8
    for tensor in (*seen, training.D[0].weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert {tensor.dtype for tensor in seen} == {dtype}
    for start, end in zip(before, training.D.parameters(), strict=True):
        assert end.isfinite().all()
        assert not torch.equal(start, end)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the compiler
def test_compiled_training_steps():
    """Of given draws they are those of eager mode; R1 is left out, since torch.compile has no second derivative."""
    x = torch.rand(8, 3, 16, 16, device=DEVICE)
    params = regularizer().sample(x)
    trained = []
    for compiler in (lambda function: function, torch.compile):
        D, before_d = discriminator(), regularizer()
        logits = compiler(lambda x, D=D, before_d=before_d: D(before_d(x, params=params)))
        optimizer = torch.optim.Adam(D.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            softplus(-logits(x)).mean().backward()
            optimizer.step()
        trained.append([parameter.detach() for parameter in D.parameters()])
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-3)
    assert not torch.equal(trained[0][0], discriminator()[0].weight)

    compiled = torch.compile(wrap(D, before_d, tell="nothing"), fullgraph=True)
    assert not torch.equal(compiled(x), compiled(x))


def test_peak_memory():
    """Forward and backward take one output and one gradient, and O(N)."""
    module, x = regularizer(), torch.rand(16, 3, 256, 256, device=DEVICE).requires_grad_()
    cotangent = torch.rand_like(x)

    def step() -> None:
        torch.autograd.grad(module(x), x, cotangent)

    step()
    assert 2 * x.nbytes <= peak_bytes(step, DEVICE) <= 2 * x.nbytes + (1 << 20)


@needs_cuda
def test_more_than_2_to_the_31_elements():
    n, side = 9, 2**14
    if torch.cuda.mem_get_info()[0] < 3 * 2 * n * side * side:
        pytest.skip("needs 15 GiB of free device memory")
    x = torch.empty(n, 1, side, side, dtype=torch.float16, device=DEVICE)
    x[:] = torch.arange(side, dtype=torch.float16, device=DEVICE)[:, None] / side
    shift = torch.arange(2 * n).view(n, 2)
    params = on_device(TransformParams(shift=shift, gain=torch.full((n,), 0.5)))
    y = input_transform(x, params)
    for sample in (0, 7, 8):
        down, right = shift[sample].tolist()
        assert torch.equal(y[sample, 0, down:, right:], x[sample, 0, : side - down, : side - right] * 0.5)
    assert torch.equal(input_transform(x, params._replace(shift=None))[8], x[8] * 0.5)


@needs_cuda
def test_a_sample_of_more_than_2_to_the_31_elements():
    elements, last = 2**31 + 2**12, 512
    if torch.cuda.mem_get_info()[0] < 3 * 2 * elements:
        pytest.skip("needs 13 GiB of free device memory")
    x = torch.zeros(1, 1, 1, elements, dtype=torch.float16, device=DEVICE)
    x[..., -last:] = torch.linspace(-1, 1, last)
    params = TransformParams(gain=torch.tensor([0.5]), noise_std=torch.tensor([0.25]), seed=torch.tensor([7]))
    y = input_transform(x, on_device(params))[0, 0, 0, -last:].float().cpu()
    first = (elements - last) // 4
    noise = torch.tensor([normal_block(7, first + block) for block in range(last // 4)]).flatten()
    torch.testing.assert_close(y, 0.5 * x[0, 0, 0, -last:].float().cpu() + 0.25 * noise, rtol=2**-11, atol=5e-6)


def test_backend_is_native():
    assert backend(DEVICE)[0] == "native"


@pytest.mark.parametrize("order", [1, -3, 2])
def test_the_signed_inception_distance_is_the_cpus(order):
    source, target = torch.randn(300, 32) * 1.2, torch.randn(250, 32)
    curves = [
        signed_inception_distance(
            source.to(device), target.to(device), order=order, generator=torch.Generator().manual_seed(0)
        )
        for device in (DEVICE, "cpu")
    ]
    torch.testing.assert_close(torch.tensor(curves[0].sid), torch.tensor(curves[1].sid), rtol=1e-6, atol=1e-12)
    own = signed_inception_distance(source, target.to(DEVICE), generator=torch.Generator(DEVICE).manual_seed(0))
    assert math.isfinite(own.csid)


def test_image_latents_are_the_cpus():
    z = torch.randn(64, 64)
    images = torch.randint(0, 256, (9, 3, 40, 40), dtype=torch.uint8)
    on_cpu, moved, made = (
        ImageLatents(images, 64),
        ImageLatents(images, 64).to(DEVICE),
        ImageLatents(images.to(DEVICE), 64),
    )
    for latents in (moved, made):
        torch.testing.assert_close(latents(z.to(DEVICE)).cpu(), on_cpu(z), rtol=1e-4, atol=1e-4)


def test_a_cascade_of_generators_that_were_trained_on_the_gpu():
    class Toy(nn.Module):
        z_dim = 16

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3 * 64)

        def forward(self, z):
            return self.layer(z).view(-1, 3, 8, 8).tanh()

    cascade = Cascade(Toy().to(DEVICE), Toy().to(DEVICE), Toy().to(DEVICE))
    assert {value.device.type for value in cascade.state_dict().values() if value.dtype != torch.uint8} == {DEVICE}
    assert cascade(torch.randn(1, 16, device=DEVICE)).shape == (1, 3, 8, 8)
