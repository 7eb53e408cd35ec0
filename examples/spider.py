"""Spider GAN (Asokan and Seelamantula, arXiv 2305.07613) on small pictures: does a friendly neighbour help?

``gan-regularizers neighbours`` ranks eight sets of icons by their friendliness to 100 portraits. Then one small GAN is
trained on the portraits again and again, with the same regularizers and settings; all that differs is what its G is
fed with: Gaussians; images of the friendliest set, without and with jitter; images of the least friendly set; or images
of the friendliest one whose mean latent is left in, as in the official code::

    python examples/spider.py                # five arms, 3 seeds each
    python examples/spider.py --quick        # a minute, to see that it works

It prints KID-lite0 at the end and how many images D had seen when the KID-lite0 was first as low as a given one, and
writes ``spider.json``, ``spider.png`` and ``samples.png``, beside ``neighbours.json`` and ``neighbours.png``.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator, ScalarFormatter
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import gan_regularizers
from gan_regularizers.commands.demo.images import icon_sets, split_portraits
from gan_regularizers.commands.demo.networks import LATENT_DIM
from gan_regularizers.commands.demo.settings import Settings
from gan_regularizers.commands.demo.training import Arm
from gan_regularizers.commands.neighbours.ranking import start
from gan_regularizers.io import images, plots
from gan_regularizers.io.files import write_atomically
from gan_regularizers.io.options import Parser, number, whole_number
from gan_regularizers.io.terminal import printable
from gan_regularizers.spider import ImageLatents
from gan_regularizers.spider.distance import RADII

RESOLUTION = 32
ICON_SIDE = 72
PORTRAITS = 100
KIMG = 15.0
MEASURES = 5
SETS = "spider-sets"  # a folder that is written anew
JITTER = 0.5
LICENCE = "Twemoji, (c) Twitter, Inc and other contributors, CC-BY 4.0"
SHOWN = 10
ARMS = {
    "gaussian": ("Gaussians", plots.RED),
    "friendliest": ("the friendliest set", "#8ab6bd"),
    "with jitter": ("the friendliest set, with jitter", plots.BLUE),
    "least friendly": ("the least friendly set", "#edae49"),
    "not centered": ("the friendliest set, not centered", "#b8b8b8"),
}


def write_sets(folder: Path) -> list[str]:
    """A folder with the portraits to train on, and one for each candidate, whose names are returned."""
    shutil.rmtree(folder, ignore_errors=True)
    sets = icon_sets()
    del sets["portraits"]
    (folder / "portraits").mkdir(parents=True)
    for i, image in enumerate(split_portraits(ICON_SIDE, PORTRAITS)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "portraits" / f"{i:03}.png")
    for name, paths in sets.items():
        (folder / name).mkdir()
        for path in paths:
            shutil.copy(path, folder / name)
    return sorted(sets)


def rank(out: Path, console: Console) -> list[str]:
    """The candidates' names, the friendliest first, by the command ``neighbours``."""
    candidates = write_sets(out / SETS)
    target, *sources = (out / SETS / name for name in ("portraits", *candidates))
    settings = {"order": 1.0, "polyharmonic": False, "radii": RADII, "n_points": 500, "n_subsets": 20}
    files = {"cache": out / "cache", "json_path": out / "neighbours.json", "chart": out / "neighbours.png"}
    neighbours = start(
        target, sources, features="lite0", device="cpu", seed=0, settings=settings, console=console, **files
    )
    return [neighbour.name for neighbour in neighbours]


def latents_of(arm: str, sets: Path, ranking: Sequence[str]) -> ImageLatents | None:
    if arm == "gaussian":
        return None
    source = images.load(sets / ranking[-1 if arm == "least friendly" else 0], RESOLUTION)
    jitter = JITTER if arm == "with jitter" else 0.0
    return ImageLatents(source, LATENT_DIM, centered=arm != "not centered", jitter=jitter, licence=LICENCE)


def train(arm: str, seed: int, kimg: float, measures: int, sets: Path, ranking: Sequence[str]) -> dict[str, Any]:
    """Train one GAN; the history of its measures, and what the first z become."""
    torch.set_num_threads(1)  # one order of summation, whatever the number of cores
    latents = latents_of(arm, sets, ranking)
    run = Arm("regularised", Settings(seed=seed, kimg=kimg), *split_portraits(RESOLUTION, PORTRAITS), latents)
    with TemporaryDirectory() as folder:
        run.run(Path(folder, "checkpoint.pt"), lambda _: None, lambda: False, measures)
    z = run.fixed_z[:SHOWN]
    # As arrays: tensors would come back through shared memory that lasts no longer than its process.
    shown = {"made": to_bytes(run.samples()[:SHOWN]).numpy()}
    if latents is not None:
        shown["fed"] = latents.images[latents.index(z)].numpy()
        rows, columns = latents.geometry
        gray = F.interpolate(latents(z).view(-1, 1, rows, columns) / 2, (RESOLUTION, RESOLUTION)).expand(-1, 3, -1, -1)
        shown["latents"] = to_bytes(gray).numpy()
    history = [{name: round(entry[name], 4) for name in ("kimg", "kid", "T")} for entry in run.history]
    return {"arm": arm, "seed": seed, "history": history, "floor": round(run.floor, 4), "shown": shown}


def to_bytes(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def train_all(runs: list[tuple], console: Console) -> list[dict[str, Any]]:
    """Train each of runs, as many at once as there are cores; the results keep their order."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(runs)), context) as pool:
        futures = [pool.submit(train, *run) for run in runs]
        for _ in track(as_completed(futures), "training", total=len(runs), console=console):
            pass
        return [future.result() for future in futures]


def kimg_to_reach(history: list[dict[str, float]], kid: float) -> float | None:
    """Thousands of real images shown when KID-lite0 first was as low, linearly between measures; None if never."""
    before = None
    for entry in history:
        if entry["kid"] <= kid:
            if before is None:
                return entry["kimg"]
            share = (before["kid"] - kid) / (before["kid"] - entry["kid"])
            return round(before["kimg"] + share * (entry["kimg"] - before["kimg"]), 2)
        before = entry
    return None


def summarize(results: list[dict[str, Any]], reach: float) -> dict[str, dict[str, Any]]:
    summary = {}
    for arm in ARMS:
        histories = [result["history"] for result in results if result["arm"] == arm]
        ends = [history[-1]["kid"] for history in histories]
        summary[arm] = {
            "kid": ends,
            "kid_mean": round(statistics.mean(ends), 1),
            "kimg_to_reach": [kimg_to_reach(history, reach) for history in histories],
        }
    return summary


def tabulate(summary: dict[str, dict[str, Any]], reach: float) -> Table:
    table = Table("G is fed with", "KID-lite0 x 1000 at the end", "mean", f"kimg to reach {reach:.0f}")
    for arm, row in summary.items():
        ends = " ".join(f"{kid:.0f}" for kid in row["kid"])
        reached = " ".join("never" if kimg is None else f"{kimg:.1f}" for kimg in row["kimg_to_reach"])
        table.add_row(ARMS[arm][0], ends, f"{row['kid_mean']:.0f}", reached)
    return table


def draw_curves(results: list[dict[str, Any]], reach: float, path: Path) -> None:
    """KID-lite0 over the images shown: thin lines for the seeds, thick ones for their means."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm, (label, colour) in ARMS.items():
        histories = [result["history"] for result in results if result["arm"] == arm]
        kimg = [entry["kimg"] for entry in histories[0]]
        values = [[entry["kid"] for entry in history] for history in histories]
        for value in values:
            axes.plot(kimg, value, color=colour, lw=0.7, alpha=0.6)
        axes.plot(kimg, [statistics.mean(at) for at in zip(*values, strict=True)], color=colour, lw=2.5, label=label)
    axes.axhline(reach, color=plots.INK, lw=1, ls="--")
    axes.set_title("KID-lite0 x 1000 against held-out portraits", fontsize=11, loc="left")
    axes.set_xlabel("thousand real images shown")
    axes.legend(title="G is fed with", frameon=False, fontsize=9)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MultipleLocator(500))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    plots.style(axes)
    plots.save(figure, path)


def draw_samples(results: list[dict[str, Any]], path: Path) -> None:
    """For the first seed: the images that z picks, their latents, and what G makes of them."""
    kinds = {"fed": "images", "latents": "their latents", "made": "what G makes"}
    first = [result for result in results if result["seed"] == results[0]["seed"]]
    rows = {(r["arm"], kind): r["shown"][kind] for r in first for kind in kinds if kind in r["shown"]}
    figure = Figure(figsize=(11, 0.95 * len(rows)), layout="compressed")
    for axes, ((arm, kind), row) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        axes.imshow(np.concatenate(row, 2).transpose(1, 2, 0), interpolation="nearest")
        axes.set_ylabel(f"{ARMS[arm][0]}:\n{kinds[kind]}", rotation=0, ha="right", va="center", fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    plots.save(figure, path)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="spider", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--seeds", type=whole_number("[1, inf)"), help="runs of each arm (default: 3; 1 with --quick)")
    add("--seed-first", type=whole_number("[0, inf)"), default=0, help="the first seed (default: 0)")
    add(
        "--kimg",
        type=number("(0, inf)"),
        help=f"thousand real images to show (default: {KIMG:g}; 0.5 with --quick)",
    )
    add("--reach", type=number("(0, inf)"), help="KID-lite0 x 1000 to reach (default: where the Gaussians end)")
    add("--out", type=Path, default=Path("spider-out"), help="folder (default: spider-out)")
    add("--quick", action="store_true", help="too short to learn much, but shows that all works")
    args = parser.parse_args(argv)
    args.seeds = args.seeds or (1 if args.quick else 3)
    args.kimg = args.kimg or (0.5 if args.quick else KIMG)
    parser.make_folder("--out", args.out)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    console = Console()
    start = time.perf_counter()
    ranking = rank(args.out, console)
    seeds = range(args.seed_first, args.seed_first + args.seeds)
    measures = 2 if args.quick else MEASURES
    runs = [(arm, seed, args.kimg, measures, args.out / SETS, ranking) for arm in ARMS for seed in seeds]
    results = train_all(runs, console)
    ends = [result["history"][-1]["kid"] for result in results if result["arm"] == "gaussian"]
    reach = args.reach or round(statistics.mean(ends))
    summary = summarize(results, reach)
    report = {
        "versions": {
            "gan_regularizers": gan_regularizers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "seconds": round(time.perf_counter() - start, 1),
        },
        "settings": {
            "kimg": args.kimg,
            "seeds": list(seeds),
            "jitter": JITTER,
            "portraits": PORTRAITS,
            "resolution": RESOLUTION,
        },
        "ranking": ranking,
        "reach": reach,
        "floor": results[0]["floor"],
        "summary": summary,
        "runs": [{key: value for key, value in result.items() if key not in ("shown", "floor")} for result in results],
    }
    write_atomically(args.out / "spider.json", (json.dumps(report, indent=1) + "\n").encode())
    draw_curves(results, reach, args.out / "spider.png")
    draw_samples(results, args.out / "samples.png")
    console.print(tabulate(summary, reach))
    wrote = f"Wrote spider.json, spider.png and samples.png to {printable(args.out)}"
    console.print(wrote, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
