"""KID-lite0: the kernel inception distance on features of EfficientNet-lite0.

Not comparable with KID or FID on Inception features.
"""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance


def kid_x1000(first: Tensor, second: Tensor) -> float:
    """1000 x the unbiased KID between two sets of features [N, d], over as many of the larger as the smaller has."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        torch.default_generator.manual_seed(0)  # which of the larger set; torch.manual_seed would reach CUDA's too
        # Where one rank of many measures, a sync would wait for the others, which never come.
        metric = KernelInceptionDistance(
            nn.Identity(), subsets=1, subset_size=min(len(first), len(second)), sync_on_compute=False
        )
        metric.update(first, real=True)
        metric.update(second, real=False)
        return 1000.0 * metric.compute()[0].item()
