"""At which steps t of the noise does D prefer the images that it was trained on? Of finished runs with diffusion.

::

    python benchmarks/low_data/gap_by_t.py low-data-out/runs/hands-100-diffusion-* --data hands.zip --json gap.json

A row per step, as a share of the chain's length T: D's mean logit on training images, less that on held-out ones, both
diffused to it; and the shares of either on D's real side. Means over the runs.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from arms import ARMS
from reals import Source, load
from rich.console import Console
from rich.table import Table
from train import Settings, Training, to_float

from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import check_output, write_atomically
from gan_regularizers.io.options import Parser

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of T
DRAWS = 8  # of the noise, for each image


@torch.no_grad()
def measure(folder: Path, source: Source, cache: Path) -> list[dict[str, float]]:
    """A row per step of one run."""
    if not (folder / "samples.npz").exists():
        raise CommandError(f"{folder} holds no finished run")
    settings = Settings(**json.loads((folder / "run.jsonl").read_text().splitlines()[0])["settings"])
    reals = load(source, settings.images, settings.samples, settings.resolution, cache)
    training = Training(settings, reals, torch.device("cpu"))
    training.load(folder)
    arm = ARMS[settings.arm]
    if arm.noise is None or arm.policy or arm.told != "t":
        raise CommandError(f"{folder} is of the arm {settings.arm}; one with noise alone, whose D is told t, is needed")
    torch.manual_seed(0)
    rows = []
    for share in SHARES:
        t = round(share * training.adapt.T)
        train, held_out = (
            torch.cat([training.D(to_float(images), torch.full((len(images),), t)) for _ in range(DRAWS)])
            for images in (reals.train, reals.held_out)
        )
        shares = {"train": (train > 0).float().mean().item(), "held_out": (held_out > 0).float().mean().item()}
        rows.append({"t / T": share, "gap": (train.mean() - held_out.mean()).item(), **shares})
    return rows


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="gap_by_t.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--data", type=Path, help="what they were trained on (default: the portraits of the demo)")
    parser.add_argument("--held-out", type=Path, help="what they were measured against (default: half of --data)")
    parser.add_argument("--cache", type=Path, default=Path("low-data-cache"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.json is not None:
        check_output("--json", args.json, ".json")
    source = Source(args.data, args.held_out)
    runs = [measure(folder, source, args.cache) for folder in args.runs]
    means = [
        {key: round(statistics.mean(row[key] for row in at), 4) for key in at[0]} for at in zip(*runs, strict=True)
    ]
    table = Table(*means[0], title=f"Means over {len(runs)} runs")
    for row in means:
        table.add_row(*(f"{value:g}" for value in row.values()))
    Console().print(table)
    if args.json is not None:
        content = {"runs": [folder.name for folder in args.runs], "rows": means}
        write_atomically(args.json, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(f"gap_by_t.py: {error}")
