"""Settings of the whole suite."""

import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Child processes take the package that is installed too, not the tree that they start in, which may have no kernels.
os.environ["PYTHONSAFEPATH"] = "1"

# A shell has what it runs in the background ignore interrupts, and so would the child processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The kernels of another build, such as one with sanitizers, in place of those of the package.
if other := os.environ.get("GAN_REGULARIZERS_TEST_KERNELS"):
    spec = importlib.util.spec_from_file_location("gan_regularizers.kernels._kernels", other)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the folder of the checkouts that ``pytest -m upstream`` patches, trains and restores.

    It is given with an equals sign: before pytest has come to this file, it takes a folder that stands alone for tests.
    """
    parser.addoption("--upstream-root", type=Path, help="holds checkouts such as stylegan3, for -m upstream")


settings.register_profile(
    "suite", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from one state of torch's global generator, in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def stand_in_library(tmp_path_factory) -> Path:
    """The stand-in of CUDA's driver, with all kernels."""
    stand_in = pytest.importorskip("stand_in")
    if stand_in.COMPILER is None:
        pytest.skip("no g++ to build the stand-in of CUDA's driver with")
    folder = tmp_path_factory.mktemp("stand-in")
    return stand_in.build_stand_in(folder, stand_in.own_kernels(folder).kernels())


@pytest.fixture
def driver(stand_in_library, tmp_path):
    """A stand-in of CUDA's driver that nobody has used yet."""
    path = tmp_path / "driver.so"
    path.write_bytes(stand_in_library.read_bytes())
    return importlib.import_module("stand_in").StandIn(path)


@pytest.fixture
def seeds_everywhere(monkeypatch) -> None:
    """Noise as seeds on the reference too, so that backends, sizes and ranks can be compared."""
    monkeypatch.setattr("gan_regularizers.diffusion_noise.runs_reference", lambda _: False)
