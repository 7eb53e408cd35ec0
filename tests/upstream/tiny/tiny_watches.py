"""What D and G are given in a run; the counts are printed as it ends.

With a zip file of images in the environment's FED_FROM, whatever enters a first layer of G must be one of them.
"""

import atexit
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

_GEOMETRIES = {32: (4, 8), 64: (8, 8), 256: (16, 16)}  # of an image as fed to G, by the length of its z


def start() -> None:
    """Watch from here on."""
    if parts := sys.modules.get("gan_regularizers.adapters.snapshot_parts"):
        _watch_what_d_is_told(parts.TellT)
    if fed_from := os.environ.get("FED_FROM"):
        _watch_what_g_is_fed(fed_from)


def inputs(images: torch.Tensor, z_dim: int, mean: torch.Tensor | None = None) -> torch.Tensor:
    """Images as G's first layer sees them: averages over a grid of z_dim areas, less their mean, of length 1."""
    flat = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), _GEOMETRIES[z_dim]).flatten(1)
    flat = flat - (flat.mean(0) if mean is None else mean)
    return flat / (flat.square().mean(1, keepdim=True) + 1e-8).sqrt()


def _watch_what_d_is_told(kind: Any) -> None:
    """Whether D was told a t, run by run; it is not where the images did not come from the pipe."""
    told, tell = [], kind.__call__

    def watched(self: Any, D: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        told.append(hasattr(args[0], "diffusion_t"))
        return tell(self, D, args, kwargs)

    kind.__call__ = watched
    atexit.register(lambda: print(f"D was told t in {sum(told)} runs and not in {len(told) - sum(told)}"))


def _watch_what_g_is_fed(path: str) -> None:
    """Stop at anything that enters a first layer of G and is not one of the images of a zip file."""
    from gan_regularizers.io.images import load

    images = load(Path(path), 32) / 127.5 - 1
    first, saw = {}, SimpleNamespace(inputs=0, images=set(), single=0)

    def check(x: torch.Tensor) -> None:
        distance, index = torch.cdist(x.float(), inputs(images, x.shape[1])).min(1)
        assert distance.max() < 0.02, f"G is fed what is none of the images, at a distance of {float(distance.max()):g}"
        saw.inputs += len(x)
        saw.images.update(index.tolist())
        saw.single += len(x) == 1

    def watch(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        kind = type(module).__name__
        if kind == "MappingNetwork" and module.z_dim:
            if getattr(getattr(module, "latents", None), "source", None) is None:
                first[module.fc0] = module.z_dim
        elif module in first:
            check(args[0][:, : first[module]])
        elif kind == "InitLayer":
            check(args[0])

    torch.nn.modules.module.register_module_forward_pre_hook(watch)
    atexit.register(
        lambda: print(f"G was fed {saw.inputs} times, {saw.single} of them alone, of {len(saw.images)} images")
    )
