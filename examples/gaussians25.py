"""A vanilla GAN and a Diffusion-GAN on 25 Gaussians, the toy of Wang et al. (arXiv 2206.02262).

The data are a 5 x 5 grid of narrow 2-D Gaussians. Both arms train the same multilayer perceptrons from the same
initial weights on the same loss; all that differs is whether DiffusionNoise acts on D's input::

    python examples/gaussians25.py              # both arms, 5 seeds each
    python examples/gaussians25.py --quick      # a few seconds, to see it work

It prints, for every seed, the modes found and the share of good samples, and writes gaussians25.json and
gaussians25.png, the samples of every run beside real ones. Runs are single-threaded and independent of each other,
so a seed gives the same numbers on a machine whatever else is run.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import softplus

import gan_regularizers
from gan_regularizers import AdaptiveT, DiffusionNoise, timestep_embedding, wrap

GRID = 5
SPACING = 2.0
MODE_STD = 0.05

Z_DIM = 2
WIDTH = 128
BATCH = 128
STEPS = 14_000
LR = 1e-3
BETAS = (0.0, 0.99)
LR_DECAY = 1 / 3  # share of the steps, the last ones, over which the learning rate falls to 0

T_MAX = 500
# The paper's sigma of 0.05 is a tenth of the standard deviation of images in [-1, 1]; these data have one of 2.8. A
# tenth of that helps little here: what has to be bridged is the empty space between modes, half a SPACING to either
# side, not an image manifold's thickness.
NOISE_STD = 1.0
# D is small and sees fresh data for ever, so it never separates the reals as well as an overfitting D of images does
# and r_d stays below the paper's 0.6. The chain is long for as long as D has the upper hand at all.
TARGET = 0.0

EVAL_SAMPLES = 10_000
GOOD_RADIUS = 3 * MODE_STD
# A mode is found if it gets a quarter of its fair share of the samples, or more, as good ones.
FOUND_SAMPLES = EVAL_SAMPLES // GRID**2 // 4
PLOT_SAMPLES = 2_000

ARMS = {"vanilla": "vanilla GAN", "diffusion": "with DiffusionNoise"}
QUICK = {"seeds": 2, "steps": 100}


def mode_centres() -> Tensor:
    axis = (torch.arange(GRID) - (GRID - 1) / 2) * SPACING
    return torch.cartesian_prod(axis, axis)


def sample_reals(count: int, generator: torch.Generator | None = None) -> Tensor:
    mode = torch.randint(GRID**2, (count,), generator=generator)
    return mode_centres()[mode] + MODE_STD * torch.randn(count, 2, generator=generator)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, outputs)
    )


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(2 + 1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = timestep_embedding(t, kind="raw") / T_MAX
        return self.layers(torch.cat([x, t], dim=1))


def train(arm: str, seed: int, steps: int, report: Callable[[int], None]) -> dict[str, Any]:
    """Train one GAN; ``report`` is called with the number of steps done since the last call."""
    torch.set_num_threads(1)  # the sums, hence the numbers, must not depend on the number of cores
    torch.manual_seed(seed)
    G = mlp(Z_DIM, 2)
    noise = DiffusionNoise(T_MAX, noise_std=NOISE_STD, seed=seed)
    noise.enabled = arm == "diffusion"  # without it D sees clean samples and t = 0
    D = wrap(Discriminator(), noise)
    adapt = AdaptiveT(noise, target=TARGET)
    # G updates less often than it takes to pay for a loop over a dozen small tensors: hence the fused kernels.
    optimizers = [torch.optim.Adam(net.parameters(), lr=LR, betas=BETAS, fused=True) for net in (G, D)]
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = LR * min(1.0, (1 - step / steps) / LR_DECAY)
        real, fake = sample_reals(BATCH), G(torch.randn(BATCH, Z_DIM))
        real_logits = step_d(D, optimizers[1], real, fake.detach())
        step_g(D, optimizers[0], fake)
        if noise.enabled:
            adapt.observe(real_logits)
            adapt.step(BATCH)
        if (step + 1) % 100 == 0:
            report(100)
    report(steps % 100)
    with torch.no_grad():
        fake = G(torch.randn(EVAL_SAMPLES, Z_DIM, generator=torch.Generator().manual_seed(seed)))
    return {"arm": arm, "seed": seed, **measure(fake), "T": int(noise.T) if noise.enabled else 0, "samples": fake}
