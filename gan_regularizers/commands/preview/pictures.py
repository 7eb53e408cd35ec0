"""A person's own pictures under the policy and at several t, and the schedule; needs matplotlib."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import DiffAugment, DiffusionNoise, InputRegularizer
from ...io import plots
from ...io.errors import CommandError
from ...io.files import check_output
from ...io.images import decode, square

SIDE = 128
AUGMENTED = 6
STEPS = 6
MOST_IMAGES = 32
TITLE_WIDTH = 100  # columns


def draw(paths: list[Path], policy: str, noise_std: float, t_max: int, schedule: str, seed: int, out: Path) -> None:
    """Write a PNG: three rows a picture (augmented, diffused, both as in training) and the schedule below."""
    check_output("--out", out, ".png")
    if out.exists() and any(path.exists() and path.samefile(out) for path in paths):
        raise CommandError(f"--out {out} is one of the pictures; name another file")
    if len(paths) > MOST_IMAGES:
        raise CommandError(f"{len(paths)} images; at most {MOST_IMAGES} fit into a picture")
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise CommandError(f"no such image: {', '.join(missing)}")
    pictures = [square(decode(str(path), path.read_bytes()), SIDE) for path in paths]
    augment = DiffAugment(policy)
    noise = DiffusionNoise(t_max, noise_std=noise_std, schedule=schedule)
    generator = torch.Generator().manual_seed(seed)
    steps = torch.linspace(0, t_max, STEPS).round().long()
    trained = InputRegularizer(augment, noise)

    rows = []
    for picture in pictures:
        batch = (picture.float() / 127.5 - 1.0).expand(AUGMENTED, -1, -1, -1)
        rows.append(("augmented" if policy else "no policy", [""] * AUGMENTED, augment(batch, generator=generator)))
        rows.append(("diffused", [f"t = {t}" for t in steps], noise(batch, t=steps, generator=generator)))
        mixed, t = trained(batch, return_t=True, generator=generator)
        rows.append(("both, t drawn", [f"t = {step}" for step in t], mixed))

    names = [path.name for path in paths]
    with plots.fonts_for(*names):
        plots.save(_figure(rows, names, noise), out)


def _figure(rows: list[tuple[str, list[str], Tensor]], names: list[str], noise: DiffusionNoise) -> Figure:
    figure = Figure(figsize=(1.55 * AUGMENTED + 1.2, 1.75 * len(rows) + 3.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.75 * len(rows), 3.0])
    grid = top.subplots(len(rows), AUGMENTED, squeeze=False)
    for axes_row, (label, titles, shown) in zip(grid, rows, strict=True):
        for axes, title, image in zip(axes_row, titles, shown, strict=True):
            axes.imshow(_to_uint8(image), interpolation="nearest")
            axes.set_title(title, fontsize=9, color=plots.INK)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        axes_row[0].set_ylabel(label, fontsize=9)
    for axes, name in zip(grid[::3, 0], names, strict=True):
        drawn = plots.label(name, TITLE_WIDTH)
        axes.set_title("\n" * drawn.count("\n") + " ", fontsize=9)  # which makes room for it
        axes.annotate(drawn, (0, 1.03), xycoords="axes fraction", fontsize=9, color=plots.INK).set_in_layout(False)
    _draw_schedule(bottom, noise)
    return figure


def _draw_schedule(figure: Figure, noise: DiffusionNoise) -> None:
    t = np.arange(noise.t_max + 1)
    alpha_bar = noise.alpha_bar()
    gain, std = figure.subplots(1, 2)
    gain.plot(t, np.sqrt(alpha_bar), color=plots.BLUE, lw=2)
    gain.set_title(f"signal gain, {noise.schedule} schedule", fontsize=10, loc="left")
    std.plot(t, noise.noise_std * np.sqrt(1.0 - alpha_bar), color=plots.RED, lw=2)
    std.set_title("noise std, for images in [-1, 1]", fontsize=10, loc="left")
    for axes in (gain, std):
        axes.set_xlabel("t")
        axes.set_ylim(bottom=0.0)
        plots.style(axes)


def _to_uint8(image: Tensor) -> np.ndarray:
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
