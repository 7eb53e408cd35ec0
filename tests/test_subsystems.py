"""A wrapped discriminator inside PyTorch's own subsystems behaves as its regularizer and the bare D do one by one."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gan_regularizers import (
    AdaptiveT,
    DiffAugment,
    DiffusionNoise,
    InputRegularizer,
    regularizer_of,
    same_draw,
    unwrap,
    wrap,
)

# PyTorch says so of its own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.(script|trace):DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch.cpu.amp.autocast\(:FutureWarning"),
]
BATCH, SIZE = 4, 8
TELLS = ("nothing", "scale-shift")


class Critic(nn.Module):
    """Its first block may be checkpointed; ``reentrant`` is checkpoint's, None for none."""

    def __init__(self, reentrant: bool | None = None, preserve_rng_state: bool = True) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
        self.last = nn.Conv2d(4, 1, SIZE - 2)
        self.reentrant = reentrant
        self.settings = {"use_reentrant": reentrant, "preserve_rng_state": preserve_rng_state}

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x) if self.reentrant is None else checkpoint(self.block, x, **self.settings)
        return self.last(h).flatten()


class Jitter(nn.Module):
    """An augmentation of somebody else's, which draws for itself from torch's generator."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0.5 * torch.rand(x.shape[0], 1, 1, 1, device=x.device)) + 0.1 * torch.randn_like(x)


def discriminator(tell: str = "nothing", critic: nn.Module | None = None, jitter: bool = False) -> nn.Module:
    parts = (DiffAugment(), *([Jitter()] if jitter else []), DiffusionNoise(500, noise_std=0.5))
    D = wrap(Critic() if critic is None else critic, *parts, tell=tell)
    torch.manual_seed(0)
    for parameter in D.parameters():  # also those that begin at 0, by which D is told t
        nn.init.normal_(parameter, std=0.3)
    return D


def images(seed: int = 1) -> Tensor:
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seeded(f: Callable[..., Any], *args: Any, seed: int = 11, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    return f(*args, **kwargs)


def gradients(D: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in D.parameters() if parameter.grad is not None]


def assert_close(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def input_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(seeded(f, x).sum(), x)[0]


# torch.func and forward-mode derivatives


@pytest.mark.parametrize("tell", TELLS)
def test_func_grad_and_vjp(tell):
    D, x = discriminator(tell), images()
    expected = input_gradient(D, x)
    assert_close(seeded(torch.func.grad(lambda x: D(x).sum()), x), expected)
    y, pullback = seeded(torch.func.vjp, D, x)
    assert_close(y, seeded(D, x))
    assert_close(pullback(torch.ones_like(y))[0], expected)


@pytest.mark.parametrize("tell", TELLS)
def test_forward_mode(tell):
    """It is the transpose of reverse mode."""
    D, x, direction = discriminator(tell), images(), images(2)
    expected = (input_gradient(D, x) * direction).sum()
    y, tangent = seeded(torch.func.jvp, D, (x,), (direction,))
    assert_close(y, seeded(D, x))
    assert_close(tangent.sum(), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = seeded(D, torch.autograd.forward_ad.make_dual(x, direction))
        assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent.sum(), expected)


@pytest.mark.parametrize("tell", TELLS)
def test_gradients_by_sample(tell):
    """As per-sample R1 takes them; every sample has a draw of its own."""
    D, x = discriminator(tell), images()[:1].expand(BATCH, -1, -1, -1)
    by_sample = torch.func.vmap(torch.func.grad(lambda x: D(x[None]).sum()), randomness="different")
    first, second = by_sample(x), by_sample(x)
    assert first.shape == x.shape
    assert first.isfinite().all()
    assert len({gradient.numpy().tobytes() for gradient in torch.cat([first, second]).detach()}) == 2 * BATCH


@pytest.mark.parametrize("runs_before", [False, True])
def test_a_transform_leaves_no_tensors_of_its_own(runs_before):
    """The tables of a chain that is first wanted, or replaced, inside of a transform are used after it."""
    regularizer, x = InputRegularizer(DiffAugment(), DiffusionNoise()), images()
    if runs_before:
        regularizer(x)
        regularizer.noise.p.fill_(0.25)
    torch.func.grad(lambda x: regularizer(x).sum())(x)
    assert_close(seeded(regularizer, x), seeded(copy.deepcopy(regularizer), x))


@pytest.mark.parametrize("tell", TELLS)
def test_functional_call(tell):
    D, x = discriminator(tell), images()
    parameters = {name: parameter.detach() for name, parameter in D.named_parameters()}
    grads = seeded(torch.func.grad(lambda p: torch.func.functional_call(D, p, (x,)).sum()), parameters)
    seeded(D, x).sum().backward()
    assert_close(grads, {name: parameter.grad for name, parameter in D.named_parameters()})


def test_functional_call_with_the_state_of_a_controller():
    """torch.func passes the controller's buffers along when it is a child of D; T stays that of its p."""
    D = discriminator()
    D.adapt = AdaptiveT(D, initial_p=0.5)
    state = {**dict(D.named_parameters()), **dict(D.named_buffers())}
    assert_close(seeded(torch.func.functional_call, D, state, (images(),)), seeded(D, images()))
    other = {**state, "adapt.noise.p": torch.tensor(0.9)}
    moved = seeded(torch.func.functional_call, D, other, (images(),))
    assert float(D.adapt.p) == 0.5
    expected = seeded(D, images())
    D.adapt.noise.set_p(0.9)
    assert moved.shape == expected.shape


# Tracing, export, compilation


@pytest.mark.parametrize("tell", TELLS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of checks that a trace leaves out
def test_trace(tell):
    D, x = discriminator(tell), images()
    traced = seeded(torch.jit.trace, D, x, check_trace=False)
    assert_close(seeded(traced, images(2)), seeded(D, images(2)))
    assert not torch.equal(traced(x), traced(x))


strictly = pytest.param(
    True, marks=pytest.mark.skipif(torch.__version__ < (2, 5), reason="strict export of torch 2.4 takes no hooks")
)


@pytest.mark.parametrize("strict", [strictly, False])
@pytest.mark.parametrize("tell", TELLS)
def test_export(tell, strict):
    """With a batch size that may change."""
    D, x = discriminator(tell), images()
    batch = torch.export.Dim("batch", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # old versions want all modules inside of D
        program = torch.export.export(D, (x,), dynamic_shapes=({0: batch},), strict=strict).module()
    for size in (2, BATCH, 7):
        x = torch.rand(size, 3, SIZE, SIZE)
        assert program(x).shape == D(x).shape
        assert not torch.equal(program(x), program(x))
    with regularizer_of(D).off():
        assert not torch.equal(program(x), D(x))
    assert_close(seeded(program, x), seeded(D, x))


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(D: nn.Module, forward: Callable[[Tensor], Tensor], adapt: AdaptiveT) -> list[Tensor]:
    """Gradients of a step in which T moves between the forward and the backward."""
    D.zero_grad()
    torch.manual_seed(11)
    logits = forward(images())
    adapt.observe(torch.ones_like(logits))
    adapt.step(BATCH)
    F.softplus(-logits).mean().backward()
    return [logits.detach(), *gradients(D)]


def steps(compiler: Callable[[nn.Module], Callable], tell: str) -> list[list[Tensor]]:
    D = discriminator(tell)
    adapt = AdaptiveT(D, interval=1, kimg=0.02, initial_p=0.2)
    forward = compiler(D)
    return [step(D, forward, adapt) for _ in range(2)]


def in_place(D: nn.Module) -> nn.Module:
    D.compile(fullgraph=True, backend="aot_eager")
    return D


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("tell", TELLS)
@pytest.mark.parametrize(
    "compiler", [lambda D: torch.compile(D, fullgraph=True, backend="aot_eager"), in_place], ids=["compile", "in place"]
)
@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_compiled_training(compiler, tell, budget):
    """T moves before the backward, also where the compiler recomputes all that it can."""
    with functorch_config.patch(activation_memory_budget=budget):
        assert_close(steps(compiler, tell), steps(lambda D: D, tell))


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_and_switched_off():
    D, x = discriminator("scale-shift"), images()
    compiled = torch.compile(D, fullgraph=True, backend="aot_eager")
    on = seeded(compiled, x)
    regularizer_of(compiled).enabled = False
    assert_close(compiled(x), D(x))
    assert torch.equal(compiled(x), compiled(x))
    regularizer_of(compiled).enabled = True
    assert_close(seeded(compiled, x), on)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("tell", TELLS)
def test_compiled_layers_in_a_row(tell):
    """Where the layer that is told t is a child of D itself."""
    D = discriminator(tell, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * (SIZE - 2) ** 2, 1)))
    compiled = torch.compile(D, fullgraph=True, backend="aot_eager")
    assert_close(seeded(compiled, images()), seeded(D, images()))


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_with_a_shared_draw():
    D, x = discriminator(), images()
    compiled = torch.compile(D, backend="aot_eager")
    compiled(x)
    with same_draw(D):
        assert_close(compiled(x), compiled(x))
    assert not torch.allclose(compiled(x), compiled(x))


# Activation checkpointing


def several_calls(forward: Callable[[Tensor], Tensor], D: nn.Module, sharing: str | None) -> list[Tensor]:
    """Gradients of a step with calls on reals and fakes, whose draws or t move on before the backward."""
    adapt = AdaptiveT(D, interval=1, kimg=0.02, initial_p=0.2)
    x = [images(seed).requires_grad_() for seed in (1, 2)]
    torch.manual_seed(11)
    with same_draw(D) if sharing else contextlib.nullcontext():
        real, fake = forward(x[0]), forward(x[1])
        adapt.observe(torch.ones_like(real))
        adapt.step(BATCH)
        loss = F.softplus(-real).mean() + (real * fake).mean()
        if sharing == "inside":
            loss.backward()
    if sharing != "inside":
        with torch.no_grad():
            D(images(3))
        with same_draw(D), torch.no_grad():
            D(images(4))
        loss.backward()
    return [*gradients(D), *(one.grad for one in x)]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # of a call without gradients
@pytest.mark.parametrize("sharing", [None, "inside", "outside"])
@pytest.mark.parametrize("tell", TELLS)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("jitter", [False, True], ids=["", "own augmentation"])
@pytest.mark.parametrize("place", ["whole", "block"])
def test_checkpointing_gives_the_gradients_that_there_are_without(place, reentrant, tell, sharing, jitter):
    plain = discriminator(tell, jitter=jitter)
    expected = several_calls(plain, plain, sharing)
    if place == "whole":
        D = discriminator(tell, jitter=jitter)
        actual = several_calls(lambda x: checkpoint(D, x, use_reentrant=reentrant), D, sharing)
    else:
        D = discriminator(tell, Critic(reentrant), jitter)
        actual = several_calls(D, D, sharing)
    assert_close(actual, expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_checkpointing_runs_again_is_no_call_of_a_shared_draw(reentrant):
    D, x = discriminator("nothing"), images().requires_grad_()
    with same_draw(D) as draw:
        checkpoint(D, x, use_reentrant=reentrant).sum().backward()
        assert len(draw.calls) == 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_of_calls_with_generators_of_their_own(reentrant):
    """Torch's generator is in one state at both calls."""

    def run(call: Callable) -> Tensor:
        noise, x, ys = DiffusionNoise(500, clean_share=0.0), images().requires_grad_(), []
        for seed, p in ((1, 0.1), (2, 0.9)):
            noise.set_p(p)
            ys.append(call(lambda x, seed=seed: noise(x, generator=torch.Generator().manual_seed(seed)).square(), x))
        noise.set_p(0.5)
        (ys[0].sum() + 2 * ys[1].sum()).backward()
        return x.grad

    actual = run(lambda forward, x: checkpoint(forward, x, use_reentrant=reentrant))
    torch.testing.assert_close(actual, run(lambda forward, x: forward(x)))


@pytest.mark.parametrize("part", ["regularizer", "noise"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_blocks_and_a_call_that_is_off(reentrant, part):
    """What is off draws nothing, so it would find torch's generator as the call before it left it."""
    results = []
    for critic in (Critic(), Critic(reentrant)):
        D = discriminator("scale-shift", critic)
        if part == "noise":
            regularizer_of(D).augment.enabled = False
        x = images().requires_grad_()
        logits = seeded(D, x)
        switch = regularizer_of(D) if part == "regularizer" else regularizer_of(D).noise
        switch.enabled = False
        off = D(x)
        switch.enabled = True
        (logits.square().sum() + off.sum()).backward()
        results.append([*gradients(D), x.grad])
    assert_close(*results)


class Impatient(Critic):
    """It takes gradients of an earlier call in its forward."""

    before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            self.before.backward()
        return super().forward(x)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_layer_whose_t_cannot_be_found(reentrant, nested):
    """Rather than another t, also where a call with a t is under way."""
    D = discriminator("scale-shift", Impatient(reentrant, preserve_rng_state=False))
    x = images().requires_grad_()
    loss = seeded(D, x).sum()
    torch.rand(1)
    with pytest.raises(RuntimeError, match="leave activation checkpointing's preserve_rng_state on"):
        if nested:
            D.before = loss
            D(images(5).requires_grad_())
        else:
            loss.backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_layer_that_runs_again_inside_of_another_call(reentrant):
    """The layer has the t of its call, not of the one that is under way."""
    results = []
    for critic in (Impatient(), Impatient(reentrant)):
        D = discriminator("scale-shift", critic)
        x = images().requires_grad_()
        critic.before = seeded(D, x).square().sum()
        D(images(5).requires_grad_())
        results.append([*gradients(D), x.grad])
    assert_close(*results)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_call_that_was_off_does_not_run_again_as_if_it_were_on(reentrant):
    """Switched on again before the backward: the gradients are those of the call, or there is an error."""
    D, x = discriminator(), images()
    with regularizer_of(D).off():
        D(x).sum().backward()
    expected = gradients(D)
    D.zero_grad()
    with regularizer_of(D).off():
        loss = checkpoint(D, x.requires_grad_(), use_reentrant=reentrant).sum()
    try:
        loss.backward()
    except RuntimeError:
        return
    assert_close(gradients(D), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_with_two_images(reentrant):
    class Pair(Critic):
        def forward(self, x: Tensor, small: Tensor) -> Tensor:
            return super().forward(x) + small.square().mean((1, 2, 3))

    def run(checkpointed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        D = wrap(Pair(), DiffAugment(), DiffusionNoise(500), inputs=("x", "small"), tell="nothing")
        adapt = AdaptiveT(D, interval=1, kimg=0.02, initial_p=0.2)
        x = images().requires_grad_()
        small = F.avg_pool2d(x, 2)
        torch.manual_seed(11)
        loss = sum(
            (checkpoint(D, x, small, use_reentrant=reentrant) if checkpointed else D(x, small)).square().sum()
            for _ in range(2)
        )
        adapt.observe(torch.ones(BATCH))
        adapt.step(BATCH)
        loss.backward()
        return [*gradients(D), x.grad]

    assert_close(run(True), run(False))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_inside_a_compiled_discriminator(reentrant):
    """Compiled code keeps what its backward needs; the checkpoint is a part of the graph."""
    expected = several_calls(plain := discriminator("scale-shift"), plain, None)
    D = discriminator("scale-shift", Critic(reentrant))
    assert_close(several_calls(torch.compile(D, backend="aot_eager"), D, None), expected)


# Several devices, threads and discriminators


def replicas(D: nn.Module, count: int) -> list[nn.Module]:
    """What torch.nn.parallel.replicate makes, which takes no CPU: copies that share hooks and all other attributes."""
    made = []
    for _ in range(count):
        copies = {name: module._replicate_for_data_parallel() for name, module in D.named_modules()}
        for name, module in D.named_modules():
            for key, child in module._modules.items():
                copies[name]._modules[key] = copies[f"{name}.{key}".lstrip(".")] if child is not None else None
            for key, parameter in module._parameters.items():
                value = None if parameter is None else parameter.view_as(parameter)
                setattr(copies[name], key, value)
        made.append(copies[""])
    return made


class Meeting(nn.Module):
    """Waits until all other threads are there."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(count, timeout=20)

    def forward(self, x: Tensor) -> Tensor:
        self.barrier.wait()
        return x


@pytest.mark.parametrize("tell", TELLS)
def test_data_parallel_replicas(tell):
    """Each thread has a slice of its own size, so that a t of another replica would be seen."""
    sizes = (2, 3, 4)
    D = wrap(
        nn.Sequential(Meeting(len(sizes)), nn.Conv2d(3, 4, 3), Meeting(len(sizes)), nn.Flatten(), nn.Linear(144, 1)),
        DiffAugment(),
        DiffusionNoise(500),
        tell=tell,
    )
    for parameter in D.parameters():
        nn.init.normal_(parameter, std=0.3)
    outputs, errors = {}, []

    def run(i: int, replica: nn.Module) -> None:
        try:
            outputs[i] = replica(torch.rand(sizes[i], 3, SIZE, SIZE))
        except Exception as error:
            errors.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(replicas(D, len(sizes)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert [len(outputs[i]) for i in range(len(sizes))] == list(sizes)
        D.zero_grad()
        sum(output.sum() for output in outputs.values()).backward()
        assert all(parameter.grad is not None for parameter in D.parameters())


def test_replicas_that_end_one_after_the_other(recwarn):
    """The first one that is through D says nothing about those that are still in it."""
    through = threading.Event()

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 2:
                through.wait(20)
            return x

    D = wrap(nn.Sequential(Late(), nn.Flatten(), nn.Linear(3 * SIZE**2, 1)), DiffusionNoise(10), tell="nothing")
    early, late = replicas(D, 2)
    thread = threading.Thread(target=late, args=(torch.rand(2, 3, SIZE, SIZE),))
    thread.start()
    early(torch.rand(3, 3, SIZE, SIZE))
    through.set()
    thread.join()
    assert not recwarn.list


def test_layers_that_run_past_the_hook_in_another_thread_are_still_noticed():
    seen = []

    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=past_the_hook, args=(x,))
            thread.start()
            thread.join()
            return x

    def past_the_hook(x: Tensor) -> None:
        try:
            D[1](x)
        except UserWarning as warning:
            seen.append(str(warning))

    D = wrap(nn.Sequential(Outside(), nn.Conv2d(3, 1, 3)), DiffAugment())
    D(images())
    assert len(seen) == 1
    assert "runs past its regularizer" in seen[0]


def test_one_regularizer_for_two_devices():
    regularizer = InputRegularizer(DiffAugment(), DiffusionNoise(100))
    near = wrap(Critic(), regularizer, tell="scale-shift")
    far = wrap(Critic().to("meta"), regularizer, tell="scale-shift")
    adapt = AdaptiveT(near, initial_p=0.5)
    x = images()
    for p in (0.5, 0.9):
        adapt.noise.set_p(p)
        assert far(x.to("meta")).is_meta
        assert near(x).device.type == "cpu"
        far(x.to("meta"))
    assert adapt.noise.t_list.device.type == "cpu"
    assert regularizer_of(far) is regularizer_of(near)
    assert unwrap(far) is far
    near(x)


# Gradient penalties, modes and precision


def composition(D: nn.Module) -> Callable[[Tensor], Tensor]:
    """A bare copy of D after the regularizer of D."""
    bare, regularizer = unwrap(copy.deepcopy(D)), regularizer_of(D)
    return lambda x: bare(regularizer(x))


def penalty(forward: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> tuple[Tensor, ...]:
    x = images().requires_grad_()
    logits = seeded(forward, x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum() + logits.sum(), parameters)


@pytest.mark.parametrize("jitter", [False, True], ids=["", "own augmentation"])
def test_r1_is_that_of_the_composition(jitter):
    D = discriminator(jitter=jitter)
    bare, regularizer = unwrap(copy.deepcopy(D)), regularizer_of(D)
    expected = penalty(lambda x: bare(regularizer(x)), list(bare.parameters()))
    torch.testing.assert_close(penalty(D, list(D.parameters())), expected, rtol=0, atol=0)
    assert all(gradient.abs().sum() > 0 for gradient in expected[:1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [True, False])
def test_modes(mode, training):
    """The regularizer acts in all of them, and training goes on after each."""
    D, x = discriminator("scale-shift").train(training), images()
    with mode():
        first = seeded(D, x)
        assert first.requires_grad == (mode is torch.enable_grad)
        assert not torch.equal(D(x), D(x))
    torch.testing.assert_close(seeded(D, x).detach(), first.detach().clone(), rtol=0, atol=0)
    adapt = AdaptiveT(D, interval=1)
    with mode():
        adapt.observe(D(x))
        adapt.step(BATCH)
    F.softplus(-D(x)).mean().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(D))


def test_autocast():
    D, x = discriminator(), images()
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = seeded(D, x), seeded(composition(D), x)
        told = discriminator("scale-shift")(x)
    assert out.dtype == told.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    out.sum().backward()
    told.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    D = discriminator("scale-shift").to(dtype)
    x = images().to(dtype)
    assert D(x).dtype == dtype
    assert regularizer_of(D).noise.p.dtype == torch.float32


# What is left behind


class Broken(Critic):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.broken:
            raise KeyError("broken")
        return logits


def test_errors_inside_leave_nothing_behind():
    D, x = discriminator("scale-shift", Broken()), images()
    regularizer, before = regularizer_of(D), None
    for broken in (True, False):
        D.broken = broken
        with contextlib.suppress(KeyError), same_draw(D):
            seeded(D, x)
        with contextlib.suppress(KeyError), regularizer.off():
            D(x)
        assert regularizer.enabled
    with same_draw(D) as draw:
        assert draw.calls == []
        before = seeded(D, x)
    assert_close(seeded(D, x), before)
    with pytest.raises(TypeError):
        D(x.int())
    with pytest.raises(UserWarning, match="runs past its regularizer"):  # a call that failed has ended
        D.block(x)


def test_deepcopy_has_a_regularizer_of_its_own():
    D, x = discriminator("scale-shift"), images()
    duplicate = copy.deepcopy(D)
    assert regularizer_of(duplicate) is not regularizer_of(D)
    torch.testing.assert_close(seeded(duplicate, x), seeded(D, x), rtol=0, atol=0)
    regularizer_of(D).noise.set_p(0.1)
    regularizer_of(D).enabled = False
    assert regularizer_of(duplicate).noise.T == 500
    assert not torch.equal(duplicate(x), duplicate(x))
    assert unwrap(duplicate) is duplicate
    assert torch.equal(duplicate(x), duplicate(x))


def test_a_copy_that_is_made_while_calls_share_a_draw_draws_for_itself():
    D, x = discriminator(), images()
    with same_draw(D):
        D(x)
        copies = copy.deepcopy(D), pickle.loads(pickle.dumps(D))
    for duplicate in copies:
        assert not torch.equal(duplicate(x), duplicate(x))
        with same_draw(duplicate):
            assert torch.equal(duplicate(x), duplicate(x))


LOADED_ELSEWHERE = """
import sys, torch
D = torch.load(sys.argv[1], weights_only=False)
x = torch.load(sys.argv[2], weights_only=True)
torch.manual_seed(11)
torch.save(D(x), sys.argv[3])
D.register_forward_pre_hook(lambda D, args: None)
torch.manual_seed(11)
assert torch.equal(D(x), torch.load(sys.argv[3], weights_only=True))
"""


def test_a_pickled_discriminator_in_another_process(tmp_path):
    """Also after another hook is registered there, which must not take the place of one of ours."""
    D = wrap(nn.Conv2d(3, 1, 3), DiffAugment(), DiffusionNoise(100), tell="scale-shift")
    regularizer_of(D).noise.set_p(0.7)
    x, names = images(), [tmp_path / name for name in ("D", "x", "y")]
    torch.save(D, names[0])
    torch.save(x, names[1])
    subprocess.run([sys.executable, "-c", LOADED_ELSEWHERE, *map(str, names)], check=True)
    torch.testing.assert_close(torch.load(names[2], weights_only=True), seeded(D, x), rtol=0, atol=0)
    again = pickle.loads(pickle.dumps(D))
    torch.testing.assert_close(seeded(again, x), seeded(D, x), rtol=0, atol=0)
    stream = io.BytesIO()
    torch.save(D.state_dict(), stream)
    stream.seek(0)
    D.load_state_dict(torch.load(stream, weights_only=True))


# Other people's hooks


def test_hooks_of_users():
    """Those of before see what the caller passes, those of after what D gets."""
    D, x, seen = Critic(), images(), {}
    before = D.register_forward_pre_hook(lambda _, args: seen.update(before=args[0]))
    wrap(D, DiffAugment(), DiffusionNoise(100), tell="nothing")
    after = D.register_forward_pre_hook(lambda _, args: seen.update(after=args[0]))
    first = D.register_forward_pre_hook(lambda _, args: seen.update(first=args[0]), prepend=True)
    end = D.register_forward_hook(lambda _, args, y: seen.update(end=args[0], y=y))
    with same_draw(D) as draw:
        y = D(x)
    assert seen["first"] is seen["before"] is x
    assert seen["after"] is seen["end"] is draw.calls[0].images[0]
    assert seen["y"] is y
    assert not torch.equal(seen["after"], x)
    for handle in (before, first, end):
        handle.remove()
    seen.clear()
    assert not torch.equal(D(x), D(x))
    assert list(seen) == ["after"]
    unwrap(D)
    D(x)
    assert seen["after"] is x
    after.remove()
    assert torch.equal(D(x), D(x))
    assert not D._forward_pre_hooks
    assert not D._forward_hooks


def test_a_hook_that_changes_the_input_is_heard():
    D, x = Critic(), images()
    D.register_forward_pre_hook(lambda _, args: (args[0].abs(),))
    wrap(D, DiffusionNoise(100), tell="nothing")
    out = seeded(D, x)
    assert torch.equal(out, seeded(D, x.abs()))
    assert not torch.equal(out, seeded(D, x * 2))


@pytest.mark.parametrize("tell", TELLS)
@pytest.mark.parametrize("normalize", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
def test_spectral_norm(normalize, tell):
    def build() -> nn.Module:
        torch.manual_seed(0)
        critic = Critic()
        critic.block[0] = normalize(critic.block[0])
        critic.last = normalize(critic.last)
        return wrap(critic, DiffAugment(), DiffusionNoise(100), tell=tell)

    D, x = build(), images()
    out = seeded(D, x)
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in D.parameters())
    if tell == "nothing":
        torch.testing.assert_close(out, seeded(composition(build()), x), rtol=0, atol=0)
    other = build()
    other.load_state_dict(D.state_dict())
    torch.testing.assert_close(seeded(other.eval(), x), seeded(D.eval(), x), rtol=0, atol=0)


@pytest.mark.parametrize("normalize", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
def test_layers_that_are_changed_after_wrapping(normalize):
    """What D is told by is at first the identity, and no layer: neither is it initialised nor normalised as one."""
    D = wrap(Critic(), DiffusionNoise(100, noise_std=0.5), tell="scale-shift")
    bare = unwrap(copy.deepcopy(D))
    for network in (D, bare):
        torch.manual_seed(0)
        network.apply(lambda module: nn.init.normal_(module.weight) if hasattr(module, "weight") else None)
        for module in list(network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                normalize(module)
    torch.testing.assert_close(seeded(D, images()), bare(seeded(regularizer_of(D), images())), rtol=0, atol=0)


def test_own_augmentations_draw_at_every_call_and_share_where_calls_share():
    D, x = discriminator(jitter=True), images()
    assert_close(seeded(D, x), seeded(composition(D), x))
    regularizer_of(D).augment.enabled = regularizer_of(D).noise.enabled = False
    assert not torch.equal(D(x), D(x))
    with same_draw(D):
        assert torch.equal(D(x), D(x))
