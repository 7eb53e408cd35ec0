"""A wrapped discriminator and its controller, replicated and sharded over two processes, and in their checkpoints.

The images and draws of a rank are the same in every scheme, so all of them train D alike.
"""

import copy
import datetime
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, regularizer_of, wrap

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo"
)

RANKS = 2
ITERATIONS = 5
INTERVAL = 2  # so the end is in the middle of an interval

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:
    fully_shard = None
# Before it could do so, FSDP2 asked for a CUDA device.
takes_cpu = fully_shard is not None and "shard_placement_fn" in inspect.signature(fully_shard).parameters
needs_fsdp2 = pytest.mark.skipif(not takes_cpu, reason="fully_shard of this torch does not take the CPU")


# Before, set_model_state_dict could not broadcast a state that has nothing but scalars.
BROADCASTS_SCALARS = torch.__version__ >= (2, 5)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU())
        self.last = nn.Linear(4, RANKS)  # a row for every rank: FSDP1 of old took no less

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mean((2, 3)))


def discriminator(tell: str = "nothing") -> nn.Module:
    torch.manual_seed(0)
    D = wrap(Critic(), DiffAugment(), DiffusionNoise(100, noise_std=0.5), tell=tell)
    for parameter in D.parameters():  # also those that begin at 0
        nn.init.normal_(parameter, std=0.3)
    return D


def controller(D: nn.Module) -> AdaptiveT:
    return AdaptiveT(D, interval=INTERVAL, kimg=0.05, initial_p=0.5)


def train(model: nn.Module, adapt: AdaptiveT, iterations: range = range(ITERATIONS)) -> None:
    """Every rank with images and draws of its own, and its own number of them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i in iterations:
        torch.manual_seed(100 * i + dist.get_rank())
        real, fake = torch.rand(2, 4 + dist.get_rank(), 3, 8, 8) * 2 - 1
        logits = model(real)
        adapt.observe(logits)
        loss = F.softplus(-logits).mean() + F.softplus(model(fake)).mean()
        adapt.step(len(real))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def plain(state: dict[str, Any]) -> dict[str, Tensor]:
    """A copy of a state dictionary, with whole tensors."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in state.items()
    }


def same(first: dict[str, Tensor], second: dict[str, Tensor], but: tuple[str, ...] = ()) -> bool:
    """Whether two states agree; sums over ranks may be taken in another order."""
    keys = [name for name in first if not name.endswith(but or ("\n",))]
    return keys == [name for name in second if not name.endswith(but or ("\n",))] and all(
        torch.allclose(first[name].double(), second[name].double(), rtol=1e-4, atol=1e-6, equal_nan=True)
        for name in keys
    )


def replicated(tell: str) -> dict[str, Tensor]:
    """DistributedDataParallel."""
    D = discriminator(tell)
    adapt = controller(D)
    model = DistributedDataParallel(D)
    train(model, adapt)
    assert regularizer_of(model) is regularizer_of(D)
    return {**plain(D.state_dict()), **{f"adapt.{name}": value for name, value in plain(adapt.state_dict()).items()}}


def replicated_with_its_controller(tell: str) -> dict[str, Tensor]:
    """The controller is a child of D, and so its buffers are sent from the first rank before every forward."""
    D = discriminator(tell)
    D.adapt = controller(D)
    train(DistributedDataParallel(D), D.adapt)
    return plain(D.state_dict())


def fsdp1(tell: str, child: bool, **settings: Any) -> dict[str, Tensor]:
    from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

    D = discriminator(tell)
    adapt = controller(D)
    if child:
        D.adapt = adapt
    keys = list(D.state_dict())
    model = FullyShardedDataParallel(D, device_id=torch.device("cpu"), **settings)
    train(model, adapt)
    assert regularizer_of(model).noise is adapt.noise

    with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
        sharded = copy.deepcopy(model.state_dict())
    assert list(sharded) == keys
    with FullyShardedDataParallel.state_dict_type(
        model, StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
    ):
        full = plain(model.state_dict())
        assert list(full) == keys

    # Sharded and full states bring back what training moves on from.
    at_the_end = plain(adapt.state_dict())
    train(model, adapt, range(ITERATIONS, ITERATIONS + INTERVAL))
    assert not same(at_the_end, plain(adapt.state_dict()))
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
        model.load_state_dict(sharded)
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
        assert same(full, plain(model.state_dict()))
        train(model, adapt, range(1))
        model.load_state_dict(full)
        assert same(full, plain(model.state_dict()))
    if child:
        assert same(at_the_end, plain(adapt.state_dict()))

    into_bare(full, tell)
    return {**full, **({} if child else {f"adapt.{name}": value for name, value in at_the_end.items()})}


def into_bare(full: dict[str, Tensor], tell: str) -> None:
    """A full state of a D that is told nothing is that of a D that was never wrapped."""
    if tell == "nothing":
        Critic().load_state_dict({name: value for name, value in full.items() if not name.startswith("adapt.")})


def fsdp1_flat(tell: str) -> dict[str, Tensor]:
    return fsdp1(tell, child=False)


def fsdp1_by_layer(tell: str) -> dict[str, Tensor]:
    """Each layer is sharded by itself, and the controller lies in D."""
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    return fsdp1(tell, child=True, auto_wrap_policy=ModuleWrapPolicy({nn.Sequential, nn.Conv2d}), use_orig_params=True)


def fsdp2(tell: str, child: bool) -> tuple[nn.Module, AdaptiveT]:
    D = discriminator(tell)
    adapt = controller(D)
    if child:
        D.adapt = adapt
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    for layer in (D.first[0], D.first, D.last):
        fully_shard(layer, mesh=mesh)
    return fully_shard(D, mesh=mesh), adapt


def fsdp2_trained(tell: str) -> dict[str, Tensor]:
    D, adapt = fsdp2(tell, child=False)
    train(D, adapt)
    state = plain(D.state_dict())
    into_bare(state, tell)
    return {**state, **{f"adapt.{name}": value for name, value in plain(adapt.state_dict()).items()}}


def fsdp2_with_its_controller(tell: str) -> dict[str, Tensor]:
    D, adapt = fsdp2(tell, child=True)
    train(D, adapt)
    return plain(D.state_dict())


def fsdp2_built_on_meta(tell: str) -> dict[str, Tensor]:
    """Deferred initialisation: D is built without memory, sharded, given memory, and loaded."""
    D = discriminator(tell)
    D.adapt = controller(D)
    expected = D.state_dict()
    with torch.device("meta"):
        D = wrap(Critic(), DiffAugment(), DiffusionNoise(100, noise_std=0.5), tell=tell)
        D.adapt = controller(D)
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    fully_shard(D.first, mesh=mesh)
    fully_shard(D, mesh=mesh).to_empty(device="cpu")
    for module in D.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(D, expected, options=StateDictOptions(full_state_dict=True))
    train(D, D.adapt)
    return plain(D.state_dict())


def checkpointed(make: Callable[[], tuple[nn.Module, AdaptiveT]], folder: Path) -> None:
    """Sharded and full states of D and its controller, through torch.distributed.checkpoint and back."""
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

    def whole(model: nn.Module) -> dict[str, Tensor]:
        return plain(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))

    model, adapt = make()
    train(model, adapt)
    expected, t_list = [whole(model), plain(adapt.state_dict())], adapt.noise.t_list.clone()

    def check(model: nn.Module, adapt: AdaptiveT, but: tuple[str, ...] = ()) -> None:
        assert same(expected[0], whole(model), but)
        assert same(expected[1], plain(adapt.state_dict()), but)
        assert torch.equal(adapt.noise.t_list, t_list)
        train(model, adapt, range(INTERVAL))

    # What was observed since the last move is each rank's own, so a state that one rank wrote for all has that of one.
    for options, but in (
        (StateDictOptions(), ()),
        (StateDictOptions(full_state_dict=True), ()),
        (StateDictOptions(full_state_dict=True, broadcast_from_rank0=True), ("_extra_state",)),
    ):
        parts = [(model, adapt), make()]
        train(*parts[1], range(50, 51))
        for source, target in zip(*parts, strict=True):
            if options.broadcast_from_rank0 and target is parts[1][1] and not BROADCASTS_SCALARS:
                target.load_state_dict(source.state_dict())
                continue
            state = copy.deepcopy(get_model_state_dict(source, options=options))
            if options.broadcast_from_rank0 and dist.get_rank():
                state = {}
            set_model_state_dict(target, state, options=options)
        check(*parts[1], but)

    dcp.save({"D": get_model_state_dict(model), "adapt": adapt.state_dict()}, checkpoint_id=folder)
    other, its = make()
    state = {"D": get_model_state_dict(other), "adapt": its.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(other, state["D"])
    its.load_state_dict(state["adapt"])
    check(other, its, ("_extra_state",))


def dcp_of_replicas(tell: str, folder: Path) -> None:
    def make() -> tuple[nn.Module, AdaptiveT]:
        D = discriminator(tell)
        return DistributedDataParallel(D), controller(D)

    checkpointed(make, folder)


def dcp_of_fsdp1(tell: str, folder: Path) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    def make() -> tuple[nn.Module, AdaptiveT]:
        D = discriminator(tell)
        model = FullyShardedDataParallel(D, device_id=torch.device("cpu"), use_orig_params=True)
        return model, controller(D)

    checkpointed(make, folder)


def dcp_of_fsdp2(tell: str, folder: Path) -> None:
    checkpointed(lambda: fsdp2(tell, child=False), folder)


def dcp_of_fsdp2_with_its_controller(tell: str, folder: Path) -> None:
    checkpointed(lambda: fsdp2(tell, child=True), folder)


def dcp_of_a_bare_discriminator(tell: str, folder: Path) -> None:  # noqa: ARG001
    """A checkpoint that was written before D was ever wrapped, and one that is read where it no longer is."""
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    bare = Critic()
    dist.broadcast(bare.last.weight.detach(), 0)
    dcp.save({"D": get_model_state_dict(bare)}, checkpoint_id=folder / "bare")
    D = DistributedDataParallel(discriminator())
    state = {"D": get_model_state_dict(D)}
    dcp.load(state, checkpoint_id=folder / "bare")
    set_model_state_dict(D, state["D"])
    assert torch.equal(D.module.last.weight, bare.last.weight)
    dcp.save({"D": get_model_state_dict(D)}, checkpoint_id=folder / "wrapped")
    state = {"D": get_model_state_dict(Critic())}
    dcp.load(state, checkpoint_id=folder / "wrapped")
    Critic().load_state_dict(state["D"])
    assert torch.equal(state["D"]["last.weight"], bare.last.weight)


def run_rank(rank: int, folder: str, scenarios: list[tuple[str, str]]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # FSDP1 and its states are to go
    dist.init_process_group(
        "gloo",
        init_method=Path(folder, "meeting").as_uri(),
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    results = {}
    try:
        for name, tell in scenarios:
            scenario = globals()[name]
            extra = {}
            if "folder" in inspect.signature(scenario).parameters:
                extra["folder"] = Path(folder, f"{name} {tell}")
            results[name, tell] = scenario(tell, **extra)
        torch.save(results, Path(folder, f"{rank}.pt"))
        dist.barrier()  # a rank that leaves while another still works has been seen to abort at its exit
    finally:
        dist.destroy_process_group()


def spawn(folder: Path, scenarios: list[tuple[str, str]]) -> list[dict[tuple[str, str], Any]]:
    """What every rank came to."""
    torch.multiprocessing.spawn(run_rank, (str(folder), scenarios), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


TELLS = ("nothing", "scale-shift")
REPLICATED = (replicated, replicated_with_its_controller, dcp_of_replicas)
FSDP1 = (fsdp1_flat, fsdp1_by_layer, dcp_of_fsdp1)
FSDP2 = (
    fsdp2_trained,
    fsdp2_with_its_controller,
    fsdp2_built_on_meta,
    dcp_of_fsdp2,
    dcp_of_fsdp2_with_its_controller,
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[tuple[str, str], Any]]:
    """All scenarios, in one start of the processes."""
    scenarios = [
        (scenario.__name__, tell) for scenario in (*REPLICATED, *FSDP1, *(FSDP2 if takes_cpu else ())) for tell in TELLS
    ]
    return spawn(tmp_path_factory.mktemp("ranks"), [*scenarios, (dcp_of_a_bare_discriminator.__name__, "nothing")])


@pytest.mark.parametrize("tell", TELLS)
@pytest.mark.parametrize(
    "scenario", [*REPLICATED[:2], *FSDP1[:2], *(pytest.param(one, marks=needs_fsdp2) for one in FSDP2[:3])]
)
def test_all_schemes_train_one_discriminator(ranks, scenario, tell):
    """Its weights, the controller's p and the list, on all ranks; but not what a rank observed since the last move."""
    expected = ranks[0][replicated.__name__, tell]
    assert not torch.equal(expected["adapt.noise.p"], torch.tensor(0.5))
    for rank in range(RANKS):
        assert same(ranks[rank][scenario.__name__, tell], ranks[0][scenario.__name__, tell], ("_extra_state",))
        assert same(ranks[rank][scenario.__name__, tell], ranks[rank][replicated.__name__, tell])


def test_ranks_observe_for_themselves(ranks):
    """Else all of the above would hold of ranks that see the same images."""
    assert not same(*(ranks[rank][replicated.__name__, "nothing"] for rank in range(RANKS)))


@pytest.mark.parametrize("tell", TELLS)
@pytest.mark.parametrize(
    "scenario",
    [REPLICATED[2], FSDP1[2], *(pytest.param(one, marks=needs_fsdp2) for one in FSDP2[3:])],
)
def test_distributed_checkpoints(ranks, scenario, tell):
    """The processes check themselves."""
    assert all((scenario.__name__, tell) in results for results in ranks)


def test_distributed_checkpoints_of_a_bare_discriminator(ranks):
    assert all((dcp_of_a_bare_discriminator.__name__, "nothing") in results for results in ranks)
