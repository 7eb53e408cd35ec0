"""Train every arm on few images, at several sizes and from several seeds, and say how they do.

::

    python benchmarks/low_data/study.py --quick                                       # a minute, to see that it works
    python benchmarks/low_data/study.py --data hands.zip --images 100,500 --out study # three seeds of each arm

Each run is a process of ``train.py`` with one thread, as many at once as there are cores. It prints a table and leaves
``low-data.jsonl`` with all runs, ``curves.png``, ``outputs.png`` and ``samples.png``. Stopped, the same command goes
on; with other data, arms or sizes it adds to what is there. With several learning rates or numbers of D's steps it
trains all combinations, and shows the first. ``--results`` names another file for the runs: those that stand in it are
not trained again, whether their folders are there or not.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import report
from arms import ARMS, MAIN
from reals import Source
from rich.console import Console
from rich.progress import track
from train import PRECISIONS, Settings

from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import write_atomically
from gan_regularizers.io.options import Parser, find_device, number, one_of, several, whole_number
from gan_regularizers.io.terminal import printable

TRAIN = Path(__file__).with_name("train.py")


@dataclass(frozen=True)
class Run:
    """One run of the study."""

    settings: Settings
    source: Source
    device: str
    out: Path

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.out / "runs" / self.settings.name

    @property
    def key(self) -> str:
        """By which it is found in a file of results."""
        return _key(self.settings, self.source.digest)

    def start(self) -> None:
        """Train in a process of its own, or leave a finished run as it is.

        Raises:
            CommandError: it failed; the last line that it said.
        """
        if self.finished():
            return
        options = asdict(self.settings) | asdict(self.source) | {"out": self.folder, "cache": self.out / "cache"}
        options["device"] = self.device
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, TRAIN, *given], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise CommandError(f"{self.folder.name}: {(done.stderr.splitlines() or ['it was killed'])[-1]}")

    def finished(self) -> bool:
        """Whether it was trained to its end, with these settings and images."""
        if not (self.folder / "samples.npz").exists():
            return False
        with (self.folder / "run.jsonl").open() as lines:
            header = json.loads(next(lines))
        return _key(Settings(**header["settings"]), header["source"]) == self.key


def _key(settings: Settings, source: str) -> str:
    return json.dumps([asdict(settings), source])


def lines_by_key(path: Path) -> dict[str, str]:
    """The lines of every run in a file."""
    runs: dict[str, str] = {}
    for line in path.read_text().splitlines(keepends=True):
        if "settings" in (header := json.loads(line)):
            key = _key(Settings(**header["settings"]), header["source"])
            runs[key] = ""
        runs[key] += line
    return runs


def train_all(runs: list[Run], jobs: int, console: Console) -> Iterator[Run]:
    """Train what is not finished yet, ``jobs`` at once; each as it is done.

    Raises:
        CommandError: some failed, and the others are done; or it was stopped.
    """
    failures = []
    pool = ThreadPoolExecutor(jobs)
    futures = {pool.submit(run.start): run for run in runs}
    try:
        for future in track(as_completed(futures), "training", total=len(runs), console=console):
            if isinstance(error := future.exception(), CommandError):
                failures.append(str(error))
            elif error is not None:
                raise error
            else:
                yield futures[future]
    except KeyboardInterrupt:
        raise CommandError("stopped; the same command goes on") from None
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        others = f" (and {len(failures) - 1} others failed)" if len(failures) > 1 else ""
        raise CommandError(failures[0] + others)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="study.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--data", type=Path, help="folder or zip of images (default: the portraits of the demo)")
    add("--held-out", type=Path, help="folder or zip to measure against (default: half of --data)")
    add("--images", type=several(whole_number("[4, inf)")), default=(100,), help="sizes, as 100,500 (default: 100)")
    add("--arms", type=several(one_of(ARMS)), default=MAIN, help=f"some of {', '.join(ARMS)} (default: the first four)")
    add("--seeds", type=whole_number("[1, inf)"), help="runs of each arm (default: 3; 1 with --quick)")
    add("--seed-first", type=whole_number("[0, inf)"), default=0, help="the first seed (default: %(default)s)")
    add(
        "--learning-rates",
        type=several(number("(0, inf)")),
        default=(Settings.learning_rate,),
        help=f"as 0.001,0.01 (default: {Settings.learning_rate:g})",
    )
    add("--d-steps", type=several(whole_number("[1, inf)")), default=(1,), help="of D for each of G (default: 1)")
    add("--width", type=whole_number("[1, inf)"), default=1, help="of G and D, as a factor (default: 1)")
    add("--precision", choices=PRECISIONS, default=Settings.precision, help="of their layers (default: %(default)s)")
    add("--samples", type=whole_number("[8, inf)"), help="to measure (default: 256; 32 with --quick)")
    add(
        "--kimg",
        type=number("(0, inf)"),
        help=f"reals to show, in thousands (default: {Settings.kimg:g}; 0.2 with --quick)",
    )
    add("--every", type=number("[0.064, inf)"), help="kimg between measures (default: 4; 0.1 with --quick)")
    add("--jobs", type=whole_number("[1, inf)"), help="runs at once (default: the cores; 1 with --device cuda)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--out", type=Path, help="folder (default: low-data-out; low-data-quick with --quick)")
    add("--results", type=Path, help="file of all runs (default: low-data.jsonl in --out)")
    add("--quick", action="store_true", help="too short to learn much, but shows that all works")
    args = parser.parse_args(argv)
    args.seeds = args.seeds or (1 if args.quick else 3)
    args.jobs = args.jobs or (1 if args.device == "cuda" else os.cpu_count() or 1)
    args.kimg = args.kimg or (0.2 if args.quick else Settings.kimg)
    args.every = args.every or (0.1 if args.quick else Settings.every)
    args.samples = args.samples or (32 if args.quick else Settings.samples)
    args.out = args.out or Path("low-data-quick" if args.quick else "low-data-out")
    parser.make_folder("--out", args.out)
    args.results = args.results or args.out / "low-data.jsonl"
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    console = Console()
    find_device(args.device)
    source = Source(args.data, args.held_out)
    seeds = range(args.seed_first, args.seed_first + args.seeds)
    grid = product(seeds, args.learning_rates, args.d_steps, args.images, args.arms)
    common = {name: getattr(args, name) for name in ("kimg", "every", "samples", "width", "precision")}
    settings = [
        Settings(arm, source.name, images, seed, learning_rate=rate, d_steps=d_steps, **common)
        for seed, rate, d_steps, images, arm in grid
    ]
    done = lines_by_key(args.results) if args.results.exists() else {}
    runs = [Run(each, source, args.device, args.out) for each in settings]
    for run in train_all([run for run in runs if run.key not in done], args.jobs, console):
        done |= lines_by_key(run.folder / "run.jsonl")
        write_atomically(args.results, "".join(done.values()).encode())
    shown = report.comparable(report.read(args.results), asdict(settings[0]))
    report.draw_curves(shown, args.out / "curves.png")
    report.draw_outputs(shown, args.out / "outputs.png")
    report.draw_samples(args.out / "runs", shown, args.out / "samples.png")
    console.print(report.console_table(shown))
    wrote = f"Wrote {args.results.name}, curves.png, outputs.png and samples.png to {printable(args.out)}"
    console.print(wrote, markup=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(f"study.py: {error}")
