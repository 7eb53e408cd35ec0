"""torch.compile without graph breaks, forward and backward, with the values of eager mode."""

import pytest
import torch
from torch import nn

from gan_regularizers import (
    AdaptiveT,
    DiffAugment,
    DiffusionNoise,
    InputRegularizer,
    timestep_embedding,
    use_backend,
    wrap,
)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape) * 2 - 1


def value_and_gradient(module, x: torch.Tensor, **arguments) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x, **arguments)
    (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), x)
    return y.detach(), gradient


# Importing inductor says so of PyTorch's own code.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor():
    """A replayed draw in one fused pass; the compiler may round differently."""
    regularizer, x = InputRegularizer(DiffAugment(), DiffusionNoise(100, noise_std=0.5)), images(3, 3, 6, 5)
    params = regularizer.sample(x)
    compiled = torch.compile(regularizer, fullgraph=True)
    torch.testing.assert_close(
        value_and_gradient(compiled, x, params=params),
        value_and_gradient(regularizer, x, params=params),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "module",
    [
        InputRegularizer(DiffAugment("cutout,color,translation"), DiffusionNoise(100)),
        InputRegularizer(None, DiffusionNoise(100, per_channel=True)),
        InputRegularizer(DiffAugment(), None),
        DiffAugment(),
        DiffusionNoise(100),
        DiffusionNoise(0),
    ],
    ids=["several passes", "per channel", "no noise", "DiffAugment", "DiffusionNoise", "off"],
)
def test_own_draws(module):
    """aot_eager draws from torch's generator as eager mode does."""
    x = images(3, 2, 6, 5)
    results = []
    for forward in (torch.compile(module, fullgraph=True, backend="aot_eager"), module):
        torch.manual_seed(11)
        results.append(value_and_gradient(forward, x))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_draws_differ_from_call_to_call():
    compiled = torch.compile(DiffAugment("color"), fullgraph=True, backend="aot_eager")
    x = images(2, 3, 4, 4)
    assert not torch.equal(compiled(x), compiled(x))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_batch_size_that_varies(backend):
    """A last batch that is smaller, as a data loader gives it, and then one more size without compiling again."""
    module, graphs = InputRegularizer(DiffAugment(), DiffusionNoise(100)), []

    def counting_backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(module, fullgraph=True, backend=counting_backend)
    with use_backend(backend):
        for size in (4, 6, 3, 9):
            x = images(size, 3, 8, 6)
            results = []
            for forward in (compiled, module):
                torch.manual_seed(11)
                results.append(value_and_gradient(forward, x))
            torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
    assert len(graphs) == 2


class TimedCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.embedding = nn.Linear(8, 4)

    def forward(self, images, labels=None, t=None):
        hidden = self.convolution(images).mean((2, 3)) + self.embedding(timestep_embedding(t, 8))
        return hidden.tanh().sum(1) + labels


def test_training_step_of_a_wrapped_discriminator():
    """Also after T has moved, without compiling again."""
    D, x, labels = wrap(TimedCritic(), DiffAugment(), DiffusionNoise(100)), images(4, 3, 6, 6), torch.ones(4)
    adapt = AdaptiveT(D, initial_p=0.5)
    graphs = []

    def counting_backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled, counts = torch.compile(D, fullgraph=True, backend=counting_backend), []
    for p in (0.5, 0.9):
        adapt.noise.set_p(p)
        steps = []
        for forward in (compiled, D):
            D.zero_grad()
            torch.manual_seed(11)
            logits = forward(x, labels)
            nn.functional.softplus(-logits).mean().backward()
            adapt.observe(logits)
            steps.append([logits.detach(), *(parameter.grad.clone() for parameter in D.parameters())])
        torch.testing.assert_close(*steps, rtol=1e-6, atol=1e-6)
        counts.append(len(graphs))
    assert counts[1] == counts[0]  # the hook's, which torch runs before the module that it compiles, and D's


def test_given_steps():
    noise, x = DiffusionNoise(100), images(3, 5)
    compiled = torch.compile(lambda x, t: noise(x, t, return_t=True), fullgraph=True, backend="aot_eager")
    for t in (3, 5, torch.tensor([0, 50, 100])):
        results = []
        for forward in (compiled, lambda x, t: noise(x, t, return_t=True)):
            torch.manual_seed(11)
            results.append(forward(x, t))
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
