"""A GAN on 25 Gaussians, without noise, with fixed noise, and with DiffusionNoise (Wang et al., arXiv 2206.02262).

The data are a 5 x 5 grid of narrow 2-D Gaussians. The three arms train the same two perceptrons from the same initial
weights, on the same loss and with the same settings; all that differs is the noise on D's input: none, instance noise
of one standard deviation throughout (arXiv 1610.04490, 1701.04862), or DiffusionNoise with AdaptiveT::

    python examples/gaussians25.py                              # three arms, 5 seeds each
    python examples/gaussians25.py --fixed-std 0.1,0.3,0.5,1,2  # instead, fixed noise with each of these
    python examples/gaussians25.py --diffusion-std 0.3,0.5,1,2  # instead, DiffusionNoise with each of these
    python examples/gaussians25.py --quick                      # a few seconds, to see that it works

It prints the modes that every run found and its share of good samples, and writes ``gaussians25.json`` and
``gaussians25.png``, the samples of every run beside real ones. A run takes one thread and shares nothing with the
others, so a seed gives the same numbers however many run at once.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import softplus

import gan_regularizers
from gan_regularizers import AdaptiveT, DiffusionNoise, timestep_embedding, wrap
from gan_regularizers.io.files import write_atomically
from gan_regularizers.io.options import Parser, number, several, whole_number
from gan_regularizers.io.terminal import printable

MODES = 25
SPACING = 2.0
MODE_STD = 0.05
MODE_CENTRES = torch.cartesian_prod(*[torch.arange(-2, 3) * SPACING] * 2)

Z_DIM = 2
WIDTH = 128
BATCH = 128
STEPS = 12_000
LR = 1e-3
LR_DECAY = 1 / 3  # share of the steps, the last ones, over which the learning rate falls to 0
BETAS = (0.0, 0.99)

T_MAX = 500
# The best of --diffusion-std 0.3,0.5,1,2, which found 16.6, 23.0, 19.8 and 21.4 modes, the mean of seeds 0 to 4. It is
# about a sixth of the data's standard deviation, 2.8; the paper's 0.05 is a tenth of that of images in [-1, 1].
NOISE_STD = 0.5
# D is small and every batch is fresh, so D never overfits and r_d stays below the paper's 0.6 for images. With 0
# the chain is long while D puts more reals on the real side than on the other, and shrinks when G catches up.
TARGET = 0.0
# The best of --fixed-std 0.1,0.3,0.5,1,2, which found 18.0, 24.8, 24.8, 0.4 and 0.0 modes on the same seeds; with 0.3
# more samples are good than with 0.5: 83.9 % against 65.6 %.
FIXED_STD = 0.3

EVAL_SAMPLES = 10_000
GOOD_RADIUS = 3 * MODE_STD
FOUND_SAMPLES = EVAL_SAMPLES // MODES // 4  # good samples that a mode needs to count as found: a quarter of its share

ARMS = {"vanilla": {}, "fixed noise": {"fixed_std": FIXED_STD}, "diffusion": {"diffusion_std": NOISE_STD}}


def sample_reals(count: int, generator: torch.Generator | None = None) -> Tensor:
    mode = torch.randint(MODES, (count,), generator=generator)
    return MODE_CENTRES[mode] + MODE_STD * torch.randn(count, 2, generator=generator)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, outputs)
    )


class Discriminator(nn.Module):
    """D(y, t): because its forward has a parameter named t, ``wrap`` tells it the step of every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(2 + 1, 1)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([y, timestep_embedding(t, kind="raw") / T_MAX], dim=1))


class InstanceNoise(nn.Module):
    """Normals of one standard deviation, drawn anew for every batch that D sees, real or fake."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x)


def train(
    seed: int, steps: int, report: Callable[[], None], *, fixed_std: float = 0.0, diffusion_std: float = 0.0
) -> dict[str, Any]:
    """Train one GAN, with a ``report()`` after every step, and measure it; noise of std 0 is left out."""
    torch.set_num_threads(1)  # one order of summation, whatever the number of cores
    torch.manual_seed(seed)
    G = mlp(Z_DIM, 2)
    noise = DiffusionNoise(T_MAX, noise_std=diffusion_std, seed=seed)
    noise.enabled = diffusion_std > 0  # else D's t is 0
    D = wrap(Discriminator(), noise)
    if fixed_std:
        D = nn.Sequential(InstanceNoise(fixed_std), D)
    adapt = AdaptiveT(noise, target=TARGET)
    # In networks this small a loop over the parameters would cost as much as their gradients, hence fused.
    g_optimizer, d_optimizer = (torch.optim.Adam(net.parameters(), LR, BETAS, fused=True) for net in (G, D))
    for step in range(steps):
        for optimizer in (g_optimizer, d_optimizer):
            optimizer.param_groups[0]["lr"] = LR * min(1.0, (1.0 - step / steps) / LR_DECAY)
        fake = G(torch.randn(BATCH, Z_DIM))
        real_logits = step_d(D, d_optimizer, sample_reals(BATCH), fake.detach())
        step_g(D, G, g_optimizer, fake)
        if noise.enabled:
            adapt.observe(real_logits)
            adapt.step(BATCH)
        report()
    with torch.no_grad():
        samples = G(torch.randn(EVAL_SAMPLES, Z_DIM))
    T = int(noise.T) if noise.enabled else 0
    # As an array: a tensor would come back through shared memory that lasts no longer than its process.
    return {"seed": seed, **measure(samples), "T": T, "samples": samples.numpy()}


def step_d(D: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor) -> Tensor:
    real_logits, fake_logits = D(torch.cat([real, fake])).chunk(2)
    loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return real_logits


def step_g(D: nn.Module, G: nn.Module, optimizer: torch.optim.Optimizer, fake: Tensor) -> None:
    loss = softplus(-D(fake)).mean()
    optimizer.zero_grad()
    loss.backward(inputs=list(G.parameters()))  # D's own gradients would go unused
    optimizer.step()


def nearest_mode(x: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each sample's nearest mode, and whether it is good: within three deviations of that mode."""
    distance, mode = torch.cdist(x, MODE_CENTRES).min(dim=1)
    return mode, distance <= GOOD_RADIUS


def is_found(x: Tensor) -> Tensor:
    """Which modes EVAL_SAMPLES samples x have found, bool [MODES]."""
    mode, good = nearest_mode(x)
    return torch.bincount(mode[good], minlength=MODES) >= FOUND_SAMPLES


def measure(x: Tensor) -> dict[str, Any]:
    _, good = nearest_mode(x)
    return {"modes": int(is_found(x).sum()), "good": int(good.sum()) / len(x)}


def share_counter(counter: Any) -> None:
    global _counter
    _counter = counter


def count_step() -> None:
    with _counter.get_lock():
        _counter.value += 1


def train_all(arms: dict[str, dict[str, float]], seeds: range, steps: int, console: Console) -> list[dict[str, Any]]:
    """Train each arm with each seed, as many at once as there are cores; the results keep that order."""
    runs = [(arm, seed) for arm in arms for seed in seeds]
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    workers = min(os.cpu_count() or 1, len(runs))
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with (
        Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress,
        ProcessPoolExecutor(workers, context, share_counter, (counter,)) as pool,
    ):
        task = progress.add_task("training", total=len(runs) * steps)
        # By name, the longer runs, those with DiffusionNoise, come first: then no core idles for long at the end.
        futures = {(arm, seed): pool.submit(train, seed, steps, count_step, **arms[arm]) for arm, seed in sorted(runs)}
        pending = set(futures.values())
        while pending:
            _, pending = wait(pending, timeout=0.2)
            progress.update(task, completed=counter.value)
        return [{"arm": run[0], **futures[run].result()} for run in runs]


def summarize(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the seeds, for each arm."""
    summary: dict[str, dict[str, float]] = {result["arm"]: {} for result in results}
    for arm, row in summary.items():
        for name in ("modes", "good"):
            values = [result[name] for result in results if result["arm"] == arm]
            row[f"{name}_mean"] = round(statistics.mean(values), 4)
            row[f"{name}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else 0.0
    return summary


def tabulate(results: list[dict[str, Any]]) -> Table:
    summary = summarize(results)
    table = Table(title=f"Modes found of {MODES}, and share of good samples")
    table.add_column("seed")
    for arm in summary:
        table.add_column(arm, justify="right")
    for seed in sorted({result["seed"] for result in results}):
        runs = [result for result in results if result["seed"] == seed]
        table.add_row(str(seed), *(f"{run['modes']}, {run['good']:.1%}" for run in runs))
    table.add_section()
    for kind in ("mean", "sd"):
        cells = (f"{row[f'modes_{kind}']:.1f}, {row[f'good_{kind}']:.1%}" for row in summary.values())
        table.add_row(kind, *cells)
    return table


def report_of(
    results: list[dict[str, Any]], arms: dict[str, dict[str, float]], steps: int, seconds: float
) -> dict[str, Any]:
    constants = ("MODES", "SPACING", "MODE_STD", "Z_DIM", "WIDTH", "BATCH", "LR", "LR_DECAY", "BETAS")
    constants += ("T_MAX", "TARGET", "EVAL_SAMPLES", "GOOD_RADIUS", "FOUND_SAMPLES")
    return {
        "versions": {
            "gan_regularizers": gan_regularizers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {"architecture": platform.machine(), "cores": os.cpu_count(), "seconds": round(seconds, 1)},
        "settings": {"steps": steps, **{name.lower(): globals()[name] for name in constants}, "arms": arms},
        "summary": summarize(results),
        "runs": [{key: value for key, value in result.items() if key != "samples"} for result in results],
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Small multiples: real samples, then a row per arm and a column per seed."""
    from matplotlib.figure import Figure  # here, so that the training processes need not import it

    arms = list(dict.fromkeys(result["arm"] for result in results))
    seeds = sorted({result["seed"] for result in results})
    figure = Figure(figsize=(4.2 + 2.1 * len(seeds), 2.4 * len(arms)), layout="constrained")
    panels = figure.subplot_mosaic(
        [["real", *(f"{arm} {seed}" for seed in seeds)] for arm in arms], width_ratios=[2.0, *[1.0] * len(seeds)]
    )
    scatter(panels["real"], sample_reals(EVAL_SAMPLES, torch.Generator().manual_seed(0)), "real samples")
    for result in results:
        panel = panels[f"{result['arm']} {result['seed']}"]
        scatter(panel, torch.from_numpy(result["samples"]), f"{result['modes']} modes, {result['good']:.0%} good")
        if result["seed"] == seeds[0]:
            panel.set_ylabel(result["arm"], fontsize=11)
        if result["arm"] == arms[-1]:
            panel.set_xlabel(f"seed {result['seed']}", fontsize=9)
    legend = panels["real"].legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, frameon=False, fontsize=9)
    for handle in legend.legend_handles[:2]:
        handle.set_sizes([25])  # the dots of the panels are too small to show a colour
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    write_atomically(path, png.getvalue())


def scatter(panel: Any, x: Tensor, title: str) -> None:
    _, good = nearest_mode(x)
    missed = MODE_CENTRES[~is_found(x)]
    panel.scatter(*x[~good].T, s=1.0, c="#b8b8b8", linewidths=0, label="other sample")
    panel.scatter(*x[good].T, s=1.5, c="#1f5fa8", linewidths=0, label="good sample")
    panel.scatter(*missed.T, s=45, facecolors="none", edgecolors="#d1495b", linewidths=1.0, label="mode not found")
    limit = 2.5 * SPACING
    panel.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    panel.set_title(title, fontsize=9)
    panel.spines[:].set_color("#d0d0d0")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="gaussians25", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=whole_number("[1, inf)"), help="runs of each arm (default: 5; 2 with --quick)")
    parser.add_argument("--seed-first", type=whole_number("[0, inf)"), default=0, help="the first seed (default: 0)")
    parser.add_argument(
        "--steps", type=whole_number("[1, inf)"), help=f"of training (default: {STEPS}; 50 with --quick)"
    )
    for option, noise in (("--fixed-std", "fixed noise"), ("--diffusion-std", "DiffusionNoise")):
        parser.add_argument(
            option,
            type=several(number("(0, inf)")),
            default=(),
            metavar="STD[,STD...]",
            help=f"instead of the three arms, {noise} with each of these standard deviations",
        )
    parser.add_argument("--out", type=Path, default=Path("gaussians25-out"), help="folder (default: gaussians25-out)")
    parser.add_argument("--quick", action="store_true", help="too short to learn anything, but shows that all works")
    args = parser.parse_args(argv)
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.steps = args.steps or (50 if args.quick else STEPS)
    parser.make_folder("--out", args.out)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    console = Console()
    swept = {"fixed_std": args.fixed_std, "diffusion_std": args.diffusion_std}
    arms = {f"{name} {std}": {name: std} for name, stds in swept.items() for std in stds} or ARMS
    seeds = range(args.seed_first, args.seed_first + args.seeds)
    start = time.perf_counter()
    results = train_all(arms, seeds, args.steps, console)
    seconds = time.perf_counter() - start
    report = json.dumps(report_of(results, arms, args.steps, seconds), indent=2) + "\n"
    write_atomically(args.out / "gaussians25.json", report.encode())
    draw(results, args.out / "gaussians25.png")
    console.print(tabulate(results))
    wrote = f"wrote gaussians25.json and gaussians25.png to {printable(args.out)}"
    console.print(f"trained for {seconds:.0f} s; {wrote}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
