"""The demo's pictures: samples side by side, and the curves."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...io.plots import BLUE, INK, RED, save, style
from .settings import ARMS

COLOURS = dict(zip(ARMS, (RED, BLUE), strict=True))
Histories = dict[str, list[dict[str, float]]]


def save_samples(path: Path, real: Tensor, samples: dict[str, Tensor], histories: Histories, floor: float) -> None:
    """Grids of real, unregularised and regularised images; all uint8 [N, 3, R, R]."""
    titles = {f"real, training set\nKID-lite0 {floor:.0f}": (real, INK)}
    for arm in ARMS:
        titles[f"{arm}\nKID-lite0 {histories[arm][-1]['kid']:.0f}"] = (samples[arm], COLOURS[arm])
    figure = Figure(figsize=(12, 4.9), layout="compressed")
    for axes, (title, (images, colour)) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        axes.imshow(image_grid(images), interpolation="nearest")
        axes.set_title(title, color=colour, fontsize=13)
        axes.axis("off")
    save(figure, path)


def save_curves(path: Path, histories: Histories, floor: float) -> None:
    """KID-lite0, D's preference of its training images, r_d and T over the images shown."""
    panels = {
        "kid": "KID-lite0 x 1000 against held-out images",
        "gap": "D(training) - D(held-out)",
        "r_d": "r_d",
        "T": "T",
    }
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(2, 2, sharex=True).flat, panels.items(), strict=True):
        for arm in ARMS[1:] if key == "T" else ARMS:
            history = histories[arm]
            axes.plot([e["kimg"] for e in history], [e[key] for e in history], color=COLOURS[arm], label=arm, lw=2)
        axes.set_title(title, fontsize=11, loc="left")
        style(axes)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if key == "kid":
            axes.axhline(floor, color=INK, lw=1, ls="--", label="real images")
            axes.legend(frameon=False)
        if key in ("r_d", "T"):
            axes.set_xlabel("thousand real images shown")
    save(figure, path)


def image_grid(images: Tensor) -> np.ndarray:
    """uint8 [N, 3, H, W] -> [rows H, columns W, 3], as square as N allows, white where it does not fill."""
    images = torch.as_tensor(images)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    blank = images.new_full((rows * columns - len(images), *images.shape[1:]), 255)
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return grid.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).numpy()
