"""Which part of the chain costs modes on the 25 Gaussians: trains arms of arms.py on several seeds.

::

    python benchmarks/gaussians/study.py --quick                                # a few seconds, to see that it works
    python benchmarks/gaussians/study.py --arms design,beside,existing          # seeds 0 to 4
    python benchmarks/gaussians/study.py --arms vanilla,diffusion --seed-first 10 --seeds 10

The seeds of an arm are trained side by side (stack.py). Every finished run is a line of ``gaussians-parts.jsonl``; the
same command, stopped, goes on, and another adds to what is there. ``report.py`` makes tables and pictures of it.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import report
from arms import ARMS, GROUPS
from rich.console import Console
from rich.progress import track
from stack import train

from gan_regularizers.io.files import write_atomically
from gan_regularizers.io.options import Parser, one_of, several, whole_number
from gan_regularizers.io.terminal import printable

LENGTH = 12_000
STACK = 5  # seeds that are trained at once


def missing(arms: list[str], seeds: range, steps: int, runs: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Arms with the seeds that no finished run has, at most STACK of them at a time."""
    done = {
        (run["arm"], run["seed"])
        for run in runs
        if run["steps"] == steps and run["settings"] == asdict(ARMS[run["arm"]])
    }
    left = {arm: [seed for seed in seeds if (arm, seed) not in done] for arm in arms}
    return [(arm, of_arm[i : i + STACK]) for arm, of_arm in left.items() for i in range(0, len(of_arm), STACK)]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="study.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    names = several(one_of([*GROUPS, *ARMS]))
    add("--arms", type=names, default=("design",), help=f"{', '.join(GROUPS)} or names of arms.py (default: design)")
    add("--seeds", type=whole_number("[1, inf)"), help="runs of each arm (default: 5; 2 with --quick)")
    add("--seed-first", type=whole_number("[0, inf)"), default=0, help="the first seed (default: 0)")
    add("--steps", type=whole_number("[2, inf)"), help=f"of training (default: {LENGTH}; 24 with --quick)")
    add("--out", type=Path, default=Path("gaussians-out"), help="folder (default: gaussians-out)")
    add("--quick", action="store_true", help="too short to learn anything, but shows that all works")
    args = parser.parse_args(argv)
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.steps = args.steps or (24 if args.quick else LENGTH)
    args.arms = list(dict.fromkeys(arm for name in args.arms for arm in GROUPS.get(name, (name,))))
    parser.make_folder("--out", args.out)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    console = Console()
    path = args.out / report.RUNS
    runs = report.read(path)
    seeds = range(args.seed_first, args.seed_first + args.seeds)
    for arm, stack in track(missing(args.arms, seeds, args.steps, runs), "training", console=console):
        settings = {"steps": args.steps, "settings": asdict(ARMS[arm])}
        for seed, run in zip(stack, train(ARMS[arm], stack, args.steps), strict=True):
            runs = [other for other in runs if (other["arm"], other["seed"]) != (arm, seed)]
            runs.append({"arm": arm, "seed": seed, **settings, **run})
        write_atomically(path, "".join(f"{json.dumps(run)}\n" for run in runs).encode())
    chosen = [run for run in runs if run["arm"] in args.arms and run["seed"] in seeds]
    console.print(report.console_table(chosen))
    console.print(f"{report.RUNS} is in {printable(args.out)}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
