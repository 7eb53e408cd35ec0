"""A training loop of a checkout with tiny networks, few images and a small grid, on one rank or several."""

import functools
import inspect
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import tiny_watches
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

# What networks of the StyleGANs, InsGen, projected GANs and R3GAN call their size; a list has a number for each stage.
_SIZES = {
    "channel_base": 512,
    "channel_max": 32,
    "cout": 16,
    "inplanes": 32,
    "queue_size": 16,
    "WidthPerStage": 16,
    "CardinalityPerStage": 4,
    "BlocksPerStage": 1,
}
_NO_PROJECTED = {"z_dim": 32, "w_dim": 32}


def shrink_loop(module: ModuleType) -> None:
    """Make the training loop of a module show D as many images as TINY says, and its ranks need no CUDA."""
    train = module.training_loop
    known = inspect.signature(train).parameters

    @functools.wraps(train)
    def tiny(**kwargs: Any) -> None:
        shrink(kwargs)
        images = int(os.environ["TINY"])
        length = {"total_kimg": images / 1000, "kimg_per_tick": 1, "image_snapshot_ticks": 1}
        length |= {"network_snapshot_ticks": 1, "metrics": []}
        kwargs.update({name: value for name, value in length.items() if name in known})
        tiny_watches.start()
        train(**kwargs)
        if distributed.is_initialized():
            distributed.barrier()  # a rank that leaves while another still works has been seen to abort at its exit
            distributed.destroy_process_group()

    module.training_loop = tiny
    shrink_grid(module)
    if not torch.cuda.is_available():
        _spare_ranks_cuda()


def shrink_configured(adapter: ModuleType) -> None:
    """Make networks tiny before an adapter compares them with those of a snapshot."""
    configure = adapter.configure
    adapter.configure = lambda kwargs, *rest: shrink(kwargs) or configure(kwargs, *rest)


def download_nothing(timm: ModuleType) -> None:
    """Leave networks untrained that timm would download; an adapter still fills in the weights that a package has."""
    create = timm.create_model
    timm.create_model = lambda *args, pretrained=False, **settings: create(*args, **settings)  # noqa: ARG005


def shrink_grid(module: ModuleType) -> None:
    """Make a training loop's grids of images as small as its own code may."""
    if grid := getattr(module, "setup_snapshot_image_grid", None):
        module.setup_snapshot_image_grid = lambda training_set, **kwargs: grid(_Large(training_set), **kwargs)


class _Large:
    """A data set that says that its images are large, of which a grid has few."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.image_shape = [data.image_shape[0], 4320, 7680]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __len__(self) -> int:
        return len(self.data)


def shrink(kwargs: dict[str, Any]) -> None:
    """Networks and a loader that a CPU runs in moments; everything that the options ask for stays."""
    G, D = kwargs["G_kwargs"], kwargs["D_kwargs"]
    kwargs["data_loader_kwargs"] = {"num_workers": 0, "pin_memory": False}
    half = int(os.environ.get("HALF_BLOCKS", "0"))
    projected = any("backbone" in name for name in D)
    sizes = _SIZES | {"num_fp16_res": half} | ({} if projected else _NO_PROJECTED)
    for settings in _dictionaries(kwargs):
        for name in settings.keys() & sizes.keys():
            many = isinstance(settings[name], list)
            settings[name] = [sizes[name]] * len(settings[name]) if many else sizes[name]
        if settings.get("FP16Stages") and not half:
            settings["FP16Stages"] = []
    if "num_layers" in G.get("mapping_kwargs", {}):
        G["mapping_kwargs"]["num_layers"] = 2
    base = G.get("base", G["class_name"])
    if ".networks_stylegan3" in base:
        G.update(num_layers=6, channel_max=16)
    elif base.endswith("networks_fastgan.Generator"):
        G.update(ngf=16)
    if "backbones" in D:
        D["backbones"] = ["tf_efficientnet_lite0"]  # whose weights a package has
    if "ConditionEmbeddingDimension" in D:
        D["ConditionEmbeddingDimension"] = D["WidthPerStage"][-1]


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in list(value.values()):
            yield from _dictionaries(inner)


def _spare_ranks_cuda() -> None:
    """Let ranks meet over gloo, and name no CUDA device to what collects their statistics and gradients."""
    meet, parallel = distributed.init_process_group, DistributedDataParallel.__init__
    stats = sys.modules["torch_utils.training_stats"]
    collect = stats.init_multiprocessing

    def init_multiprocessing(rank: int, sync_device: torch.device | None) -> None:
        collect(rank, sync_device and torch.device("cpu"))

    def init(self: Any, module: torch.nn.Module, device_ids: Any = None, **settings: Any) -> None:  # noqa: ARG001
        parallel(self, module, **settings)

    distributed.init_process_group = lambda backend, **settings: meet("gloo", **settings)  # noqa: ARG005
    stats.init_multiprocessing = init_multiprocessing
    DistributedDataParallel.__init__ = init
