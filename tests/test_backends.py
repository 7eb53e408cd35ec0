"""The choice of the backend: by code, by the environment, and what happens where there are no kernels."""

import warnings

import pytest
import torch

from gan_regularizers import BackendWarning, DiffAugment, use_backend
from gan_regularizers import ops as operator
from gan_regularizers.ops import backend, native


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
    monkeypatch.setitem(native._missing, "cpu", reason)
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
