"""What lets a checkout's scripts other than train.py run on a CPU, without a download."""

from types import ModuleType
from typing import Any

import tiny_watches
import torch


def use_cpu(_: ModuleType) -> None:
    """Make ``torch.device("cuda")`` the CPU where torch finds no CUDA device."""
    tiny_watches.start()
    if torch.cuda.is_available():
        return
    device = torch.device

    class Kind(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> torch.device:
            named = device(*args, **kwargs)
            return device("cpu") if named.type == "cuda" else named

        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, device)

    torch.device = Kind("device", (), {})


def mean_for_metric(module: ModuleType) -> None:
    """Calculate the mean of an image in place of upstream's first metric, whose network is downloaded."""

    def mean(options: Any) -> dict[str, float]:
        G = options.G
        return {"mean": float(G(torch.zeros(1, G.z_dim), torch.zeros(1, G.c_dim)).mean())}

    module._metric_dict["fid50k_full"] = mean
