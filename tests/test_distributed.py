"""Two processes with different data end with one p, T and list, as one process with all the data does."""

import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, wrap

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo"
)

RANKS = 2
ITERATIONS = 12
BATCH_SIZES = (3, 5)


def reals(rank: int, iteration: int) -> torch.Tensor:
    """D's outputs on the reals that a rank sees: mostly positive at first, mostly negative later."""
    generator = torch.Generator().manual_seed(100 * iteration + rank)
    return torch.randn(BATCH_SIZES[rank], generator=generator) + 1.5 * math.cos(iteration / 2)


def controller(device: str = "cpu") -> AdaptiveT:
    return AdaptiveT(DiffusionNoise(100), target=0.3, interval=3, kimg=0.1, initial_p=0.4).to(device)


def course(adapt: AdaptiveT, logits: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The controller's buffers, T and the list after every iteration."""
    states = []
    adapt.noise(torch.zeros(1, 1))  # a noise that never ran would be noticed
    for batch in logits:
        adapt.observe(batch)
        adapt.step(len(batch))
        states.append({name: buffer.clone() for name, buffer in adapt.named_buffers()})
        states[-1] |= {"T": torch.tensor(adapt.T), "t_list": adapt.noise.t_list}
    return states


def two_updates(device: str) -> dict[str, torch.Tensor]:
    """D's state after two updates under DistributedDataParallel, each rank with its own images."""
    torch.manual_seed(0)
    D = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 1))
    wrap(D, DiffAugment(), DiffusionNoise(100), tell="scale-shift")
    parallel = DistributedDataParallel(D.to(device))
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    torch.manual_seed(dist.get_rank())
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.softplus(-parallel(torch.randn(4, 3, 6, 6, device=device))).mean().backward()
        optimizer.step()
    return {name.removeprefix("module."): value for name, value in parallel.state_dict().items()}


def buffers_at_the_start() -> list[float]:
    """A buffer that differs between ranks, under DistributedDataParallel(broadcast_buffers=False), then mended."""

    def start() -> float:
        module = nn.Linear(1, 1)
        module.register_buffer("noise", torch.tensor(float(dist.get_rank())))
        DistributedDataParallel(module, broadcast_buffers=False)
        return float(module.noise)

    before = start()
    importlib.import_module("gan_regularizers.adapters.modern_torch")
    return [before, start()]


def run_rank(rank: int, folder: str, device: str) -> None:
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=RANKS)
    try:
        states = course(controller(device), [reals(rank, iteration).to(device) for iteration in range(ITERATIONS)])
        torch.save((states, two_updates(device), buffers_at_the_start()), Path(folder, f"{rank}.pt"))
        dist.barrier()  # a rank that leaves while another still works has been seen to abort at its exit
    finally:
        dist.destroy_process_group()


def spawn(folder: Path, device: str) -> list[tuple]:
    """What every rank came to; all of them use one device."""
    torch.multiprocessing.spawn(run_rank, (str(folder), device), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", map_location="cpu", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[tuple]:
    return spawn(tmp_path_factory.mktemp("ranks"), "cpu")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True)


def test_ranks_agree_with_one_process_that_saw_everything(ranks):
    together = [torch.cat([reals(rank, iteration) for rank in range(RANKS)]) for iteration in range(ITERATIONS)]
    expected = course(controller(), together)
    assert len({int(state["T"]) for state in expected}) > 2
    for states, _, _ in ranks:
        for actual, wanted in zip(states, expected, strict=True):
            assert_same(actual, wanted)


def test_one_rank_alone_would_go_elsewhere():
    """So the agreement is no accident of the data."""
    alone = [course(controller(), [reals(rank, i) for i in range(ITERATIONS)])[-1]["r_d"] for rank in range(RANKS)]
    assert alone[0] != alone[1]


def test_data_parallel_training_of_a_wrapped_discriminator(ranks):
    (_, first, _), (_, second, _) = ranks
    assert_same(first, second)
    assert "0.weight" in first
    assert all(value.isfinite().all() for value in first.values())


def test_ranks_start_from_the_buffers_of_the_first_one_where_upstream_counts_on_it(ranks):
    assert [buffers for _, _, buffers in ranks] == [[0.0, 0.0], [1.0, 0.0]]
