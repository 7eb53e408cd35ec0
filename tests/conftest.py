"""Settings of the whole suite."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from one state of torch's global generator, in whatever order tests run."""
    torch.manual_seed(0)
