"""The share of a training iteration of StyleGAN2-ADA that the regularizers take.

::

    gan-regularizers patch CHECKOUT
    python benchmarks/stylegan2_ada_share.py CHECKOUT --json share.json

Upstream's own training loop runs without regularizers, with them on the fused kernels, and with them in plain torch, on
images of noise, each time in a process of its own; the arms take turns. Beside it the regularizers alone are timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import interpolate

from gan_regularizers.commands.bench import cases, machine, timing
from gan_regularizers.commands.bench.settings import MODES, Settings
from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import check_output, write_atomically
from gan_regularizers.io.options import Parser, find_device, whole_number
from gan_regularizers.ops import native

DRIVER = Path(__file__).resolve().parents[1] / "tests" / "upstream" / "driver.py"
REG = "diffaug+diffusion"
ARMS = {"none": ("none", "auto"), "native": (REG, "native"), "reference": (REG, "reference")}  # --reg and the backend
R1_INTERVAL = 16  # upstream's: iterations from one R1 to the next
WARM_UP_TICKS = 1  # after the first one, a single batch in which upstream compiles its own operators
IMAGES = 256


def make_data(path: Path, resolution: int) -> None:
    """A zip of smooth noise, which upstream's loader unpacks as fast as photographs."""
    noise = torch.rand(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = interpolate(noise, size=resolution, mode="bilinear").mul(255).byte().permute(0, 2, 3, 1).numpy()
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            stream = BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            archive.writestr(f"{number:05}.png", stream.getvalue())


def train(args: argparse.Namespace, arm: str, folder: Path) -> tuple[list[float], bool]:
    """Seconds per thousand images, for every tick that counts; and whether upstream built its own operators."""
    reg, backend = ARMS[arm]
    images = args.iterations * args.batch
    result = folder / "result.json"
    told = [f"--reg-condition={args.condition}"] if reg != "none" else []
    command = [sys.executable, DRIVER, "ticks", images, WARM_UP_TICKS + args.ticks, result]
    command += [f"--outdir={folder / 'runs'}", f"--data={folder / 'data.zip'}", "--gpus=1", f"--batch={args.batch}"]
    command += ["--cfg=auto", "--gamma=1", "--aug=noaug", "--metrics=none", f"--reg={reg}", *told]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {}
    tiny = {"HALF_BLOCKS": "0"} if args.quick else {}
    environment = {**os.environ, "GAN_REGULARIZERS_BACKEND": backend, **hidden, **tiny}
    done = subprocess.run(list(map(str, command)), cwd=args.checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(f"{arm}: upstream's training stopped\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    # Upstream takes the time of its own sec/kimg before it waits for the device, and the timestamp after that.
    stamps = [line["timestamp"] for line in json.loads(result.read_text())]
    seconds = [1000 * (end - begin) / images for begin, end in pairwise(stamps)][WARM_UP_TICKS:]
    return seconds, "Falling back to slow reference implementation" not in done.stderr


def own_times(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of the regularizers alone, on the batches of the training, by backend and mode."""
    shape = (args.batch, 3, args.resolution, args.resolution)
    settings = Settings(args.device, (shape,), compile=False)
    subject = cases.Subject(shape, "float32", "all")
    batch = cases.batch(subject, args.device)
    transforms = cases.transforms(subject, settings, "native", None)
    calls = {
        (backend, mode): cases.call(mode, transforms[name], batch)
        for backend, name in (("native", cases.OURS), ("reference", cases.REFERENCE))
        for mode in MODES
    }
    for call in calls.values():
        timing.warm_up(call)

    def fail(name: tuple[str, str], error: Exception) -> None:
        raise CommandError(f"the regularizers alone, {' '.join(name)}: {error}") from error

    times = timing.take_turns(calls, args.device, 0.1 if args.quick else 1.0, fail)
    return {backend: {mode: 1e3 * times[backend, mode].median for mode in MODES} for backend in ("native", "reference")}


def summary(args: argparse.Namespace, ticks: dict[str, list[float]], own: dict[str, dict[str, float]]) -> dict:
    """An entry per arm."""
    medians = {arm: statistics.median(values) for arm, values in ticks.items()}
    entries: dict[str, dict[str, Any]] = {}
    for arm, median in medians.items():
        entries[arm] = {"sec_per_kimg": median, "ticks": ticks[arm], "share": (median - medians["none"]) / median}
        if arm in own:
            # D's step sees fakes and reals, whose gradients nobody asks for; G's step takes that of the fakes.
            each = own[arm]
            iteration = 2 * each["forward"] + each["forward+backward"] + each["r1"] / R1_INTERVAL
            entries[arm] |= {"own_ms": each, "own_share": iteration / (median * args.batch)}
    return entries


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="stylegan2_ada_share.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("checkout", type=Path, help="a patched checkout of stylegan2-ada-pytorch")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: %(default)s")
    parser.add_argument("--resolution", type=whole_number("[32, 1024]"), default=256, help="default: %(default)s")
    parser.add_argument("--batch", type=whole_number("[4, inf)"), default=16, help="default: %(default)s")
    parser.add_argument(
        "--condition", choices=("t", "none"), default="t", help="what D is told of t (default: %(default)s)"
    )
    parser.add_argument(
        "--iterations",
        type=whole_number("[16, inf)"),
        default=64,
        help=f"of a tick, a multiple of {R1_INTERVAL}, so that all have as many R1 (default: %(default)s)",
    )
    parser.add_argument("--ticks", type=whole_number("[1, inf)"), default=3, help="of a run that count (default: 3)")
    parser.add_argument("--repeats", type=whole_number("[1, inf)"), default=2, help="runs of each arm (default: 2)")
    parser.add_argument("--quick", action="store_true", help="tiny networks: a test of this script, no measurement")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Stop before any work where something is amiss."""
    check_output("--json", args.json, ".json")
    args.device = find_device(args.device)
    if args.device == "cpu" and not args.quick:
        raise CommandError("a CPU takes days for these networks; give --quick to test the script on it")
    if args.resolution & (args.resolution - 1):
        raise CommandError(f"--resolution {args.resolution} is no power of two, which upstream needs")
    if args.iterations % R1_INTERVAL:
        raise CommandError(f"--iterations {args.iterations} is no multiple of {R1_INTERVAL}")
    script = args.checkout / "train.py"
    if not script.exists():
        raise CommandError(f"{args.checkout} is no checkout of stylegan2-ada-pytorch: it has no train.py")
    if "gan_regularizers" not in script.read_text():
        raise CommandError(f"{args.checkout} is not patched; run: gan-regularizers patch {args.checkout}")
    if reason := native.missing(args.device):
        raise CommandError(f"there are no fused kernels to measure: {reason}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check(args)
    ticks: dict[str, list[float]] = {arm: [] for arm in ARMS}
    all_built = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder / "data.zip", args.resolution)
        for repeat in range(args.repeats):
            # Every other round goes backwards, so that a drift favours no arm.
            for arm in list(ARMS)[:: -1 if repeat % 2 else 1]:
                seconds, built = train(args, arm, folder)
                ticks[arm] += seconds
                all_built &= built
                print(f"{arm}: {', '.join(f'{value:.3f}' for value in ticks[arm])} sec/kimg", flush=True)
    own = own_times(args)
    result = {
        "machine": machine.describe(args.device),
        "versions": machine.versions(args.device),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "upstream_operators_built": all_built,
        "arms": summary(args, ticks, own),
    }
    write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    if not all_built:
        print("Upstream could not build its own operators, so its networks are slow and the shares too small.")
    print(f"{result['machine']['device']}\n{'arm':<10} {'sec/kimg':>9} {'share':>7} {'own':>7}")
    for arm, entry in result["arms"].items():
        own_share = f"{entry['own_share']:7.2%}" if "own_share" in entry else f"{'-':>7}"
        print(f"{arm:<10} {entry['sec_per_kimg']:9.3f} {entry['share']:7.2%} {own_share}")


if __name__ == "__main__":
    try:
        main()
    except (CommandError, OSError) as error:
        sys.exit(f"stylegan2_ada_share.py: {error}")
