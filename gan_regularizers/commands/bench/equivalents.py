"""What comes nearest to DiffAugment in kornia and in torchvision, for images in [0, 1], with a draw for each sample.

docs/performance.md says what differs. The libraries are imported when they are asked for, and need not be there.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

# DiffAugment's ranges in [0, 1], as far as the words mean the same: b is multiplied here, and added there.
_COLOR = {"brightness": 0.25, "contrast": 0.5, "saturation": 1.0}
_SHIFT = 0.125
_BOX = {"scale": (0.25, 0.25), "ratio": (1.0, 1.0), "value": 0.5, "p": 1.0}


@functools.cache
def kornia(policy: str) -> Callable[[Tensor], Tensor]:
    """A policy of DiffAugment by kornia.augmentation."""
    library = _import("kornia.augmentation")
    parts = {
        "color": library.ColorJitter(**_COLOR),
        "translation": library.RandomTranslate((-_SHIFT, _SHIFT), (-_SHIFT, _SHIFT), p=1.0),
        "cutout": library.RandomErasing(**_BOX),
    }
    return library.AugmentationSequential(*(parts[name] for name in policy.split(",")), data_keys=["input"])


@functools.cache
def torchvision(policy: str) -> Callable[[Tensor], Tensor]:
    """A policy of DiffAugment by torchvision.transforms.v2, which draws once for a batch: so image by image."""
    library = _import("torchvision.transforms.v2")
    parts = {
        "color": library.ColorJitter(**_COLOR),
        "translation": library.RandomAffine(0.0, translate=(_SHIFT, _SHIFT), fill=0.5),
        "cutout": library.RandomErasing(**_BOX),
    }
    augment = library.Compose([parts[name] for name in policy.split(",")])

    def each(x: Tensor) -> Tensor:
        if "translation" in policy and x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
            raise RuntimeError("torch's grid_sample writes beyond its memory in backward in this dtype on the CPU")
        return torch.stack([augment(image) for image in x])

    return each


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{error}; pip install {name.partition('.')[0]}") from error
