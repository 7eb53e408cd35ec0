"""The choice of the backend: by code, by the environment, and what happens where there are no kernels."""

import warnings

import pytest
import torch
from test_operator import PARTS, SHAPE, channels_case, make_case
from torch import nn
from torch.autograd import forward_ad

from gan_regularizers import BackendWarning, DiffAugment, DiffusionNoise, use_backend
from gan_regularizers import ops as operator
from gan_regularizers.ops import TransformParams, backend, input_transform, native


def test_backends():
    with use_backend("reference"):
        assert backend() == ("reference", "chosen by use_backend")
        with use_backend("auto"):
            assert backend()[0] in ("reference", "native")
        assert backend()[1] == "chosen by use_backend"
    with (
        pytest.raises(ValueError, match="'cuda' is no backend; choose 'auto', 'reference' or 'native'"),
        use_backend("cuda"),
    ):
        pass
    assert backend()[1] != "chosen by use_backend"


@pytest.fixture
def no_kernels(monkeypatch) -> str:
    """A machine without kernels; returns the reason."""
    reason = "no compiler was found; run: gan-regularizers build"
    monkeypatch.setattr(native, "_unbuilt", reason)
    monkeypatch.setattr(operator, "_warned", set())
    return reason


def test_auto_warns_once_where_there_are_no_kernels(no_kernels):
    augment, x = DiffAugment(), torch.rand(2, 3, 8, 8)
    with use_backend("auto"):
        with pytest.warns(BackendWarning, match=no_kernels) as caught:
            augment(x)
        assert len(caught) == 1
        augment(x)
    assert backend() == ("reference", no_kernels)


@pytest.mark.usefixtures("no_kernels")
def test_choosing_the_reference_warns_of_nothing():
    with warnings.catch_warnings(), use_backend("reference"):
        warnings.simplefilter("error")
        DiffAugment()(torch.rand(2, 3, 8, 8))


def test_native_without_kernels_says_why(no_kernels):
    with pytest.raises(RuntimeError, match=f"use_backend: 'native', but {no_kernels}"), use_backend("native"):
        pass


def test_devices_and_dtypes_without_kernels():
    assert backend("mps") == ("reference", "there are no kernels for devices of type 'mps'")
    name, reason = backend("cuda", torch.float64)
    assert name == "reference"
    assert "not float64" in reason
    with use_backend("native"), pytest.raises(RuntimeError, match="'mps'"):
        backend("mps")


@pytest.fixture
def only_reference(monkeypatch) -> None:
    """Native kernels are chosen, and none of them can run."""

    def refuse(*_):
        raise AssertionError("a kernel was called")

    for name in ("input_transform", "draw", "_draw_pass", "missing"):
        monkeypatch.setattr(native, name, (lambda *_: "") if name == "missing" else refuse)
    with use_backend("native"):
        yield


class Sum(nn.Module):
    """A D that is told nothing and weighs every pixel."""

    def forward(self, x):
        return (x * torch.linspace(-1, 1, x[0].numel()).view(x.shape[1:])).sum((1, 2, 3))


def discriminator(**settings) -> nn.Module:
    return nn.Sequential(DiffAugment(**settings), DiffusionNoise(10), Sum())


SETTINGS = ({}, {"p": 0.5, "value_range": (0, 1), "channels": slice(0, 2)})


def reference_gradient(D: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with use_backend("reference"):
        x = x.clone().requires_grad_()
        torch.manual_seed(1)
        return torch.autograd.grad(D(x).sum(), x)[0]


# What torch's own forward mode says of its parts.
of_forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@of_forward_mode
@pytest.mark.usefixtures("only_reference")
@pytest.mark.parametrize("settings", SETTINGS)
def test_transforms_of_torch_func(settings):
    D, x = discriminator(**settings), torch.rand(4, 3, 8, 8)
    with pytest.raises(AssertionError, match="a kernel was called"):
        D(x)
    expected = reference_gradient(D, x)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.func.grad(lambda x: D(x).sum())(x), expected)
    torch.manual_seed(1)
    _, pull_back = torch.func.vjp(D, x)
    torch.testing.assert_close(pull_back(torch.ones(4))[0], expected)
    direction = torch.rand_like(x)
    torch.manual_seed(1)
    _, tangent = torch.func.jvp(D, (x,), (direction,))
    torch.testing.assert_close(tangent.sum(), (expected * direction).sum())
    with pytest.raises(AssertionError, match="a kernel was called"):
        D(x)


@pytest.mark.usefixtures("only_reference")
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_sample_of_a_vmap_has_its_own_draw(settings):
    D, x = discriminator(**settings), torch.rand(1, 3, 8, 8).expand(16, 3, 8, 8)
    gradients = torch.func.vmap(torch.func.grad(lambda one: D(one[None]).sum()), randomness="different")(x)
    assert gradients.shape == x.shape
    assert gradients.isfinite().all()
    touched = 16 if "p" not in settings else 3
    assert len(gradients.unique(dim=0)) >= touched


@pytest.mark.usefixtures("only_reference")
@pytest.mark.parametrize("channels", [None, (0, 2)])
def test_a_vmap_over_given_parameters(channels):
    case = make_case((5, 3, 6, 7), PARTS, centre=0.5, channels=channels)

    def one(x: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        params = type(case.params)(*(part[None] for part in parts), *case.params[8:])
        return input_transform(x[None], params)[0]

    torch.testing.assert_close(torch.func.vmap(one)(case.x, *case.params[:8]), case.expected())


def test_a_vmap_over_values_for_every_channel():
    case = channels_case(SHAPE)

    def one(x, gain, noise_std, seed):
        params = TransformParams(gain=gain[None], noise_std=noise_std[None], seed=seed[None])
        return input_transform(x[None], params)[0]

    torch.testing.assert_close(torch.func.vmap(one)(case.x, *case.params[5:8]), case.expected())


@of_forward_mode
@pytest.mark.usefixtures("only_reference")
@pytest.mark.parametrize("settings", SETTINGS)
def test_forward_mode_differentiation(settings):
    D, x, direction = discriminator(**settings), torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    expected = (reference_gradient(D, x) * direction).sum()
    torch.manual_seed(1)
    augment, noise, D = D
    with use_backend("reference"):  # random words carry no tangent, so kernels could draw
        drawn = augment.sample(x), noise.sample(x)
    with forward_ad.dual_level():
        dual = augment(forward_ad.make_dual(x, direction), params=drawn[0])
        tangent = forward_ad.unpack_dual(D(noise(dual, params=drawn[1]))).tangent
    torch.testing.assert_close(tangent.sum(), expected)


@pytest.mark.usefixtures("only_reference", "seeds_everywhere")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("settings", SETTINGS)
def test_torch_jit_trace(settings):
    D, x = discriminator(**settings), torch.rand(4, 3, 8, 8)
    traced = torch.jit.trace(D, x, check_trace=False)
    for n in (4, 7):
        x = torch.rand(n, 3, 8, 8)
        torch.manual_seed(1)
        actual = traced(x)
        torch.manual_seed(1)
        with use_backend("reference"):
            torch.testing.assert_close(actual, D(x))


@pytest.mark.usefixtures("no_kernels")
def test_transforms_do_not_say_that_kernels_are_missing():
    D, x = discriminator(), torch.rand(2, 3, 8, 8)
    with warnings.catch_warnings(), use_backend("auto"):
        warnings.simplefilter("error")
        torch.func.grad(lambda x: D(x).sum())(x)
        with pytest.raises(BackendWarning):
            D(x)


@pytest.mark.parametrize("name", ["reference", "native"])
def test_meta_device(name, monkeypatch):
    monkeypatch.setattr(native, "_unbuilt", "")
    aug = DiffAugment("color,translation,cutout,color", p=0.5, channels=slice(0, 3))
    with use_backend(name):
        for x in (torch.rand(2, 4, 8, 8, device="meta"), torch.rand(2, 4, 8, 8, device="meta").to(torch.float16)):
            y = aug(x)
            assert (y.shape, y.dtype, y.device.type) == (x.shape, x.dtype, "meta")
    with torch.device("meta"), use_backend("reference"):
        assert DiffAugment(p=0.5)(torch.rand(2, 3, 8, 8, device="cpu")).device.type == "cpu"
