"""The command ``gan-regularizers bench``: the modules as a user calls them, beside what else does it, and a copy."""

import itertools
from pathlib import Path
from typing import Any

from ...io import options, terminal
from ...io.errors import CommandError
from .._extras import need
from .._options import DEVICES, Commands
from .settings import (
    DEFAULT_PARTS,
    DTYPES,
    LAYOUTS,
    MODES,
    MOST_IMAGE_CHANNELS,
    PARTS,
    SHAPE_SETS,
    SHAPES,
    Settings,
    Shape,
    shape_name,
    shapes,
)


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "bench",
        help="times beside the official sequence of operations and a copy",
        description=f"{bench.__doc__} Ctrl-C leaves the cases that were finished.",
    )
    command.set_defaults(command=bench)
    add = command.add_argument
    add("--device", choices=DEVICES, default="auto", help="(default: auto)")
    add(
        "--shapes",
        type=options.several(shapes),
        metavar="NxCxHxW,...",
        help=f"more than {MOST_IMAGE_CHANNELS} channels: a feature map; those of ProjectedGAN's discriminator: "
        + ", ".join(SHAPE_SETS)
        + " (default: "
        + "; ".join(f"{','.join(map(shape_name, shapes))} on {device}" for device, shapes in SHAPES.items())
        + ")",
    )
    for name, known, default in (
        ("dtypes", DTYPES, Settings.dtypes),
        ("layouts", LAYOUTS, Settings.layouts),
        ("parts", PARTS, DEFAULT_PARTS),
        ("modes", MODES, MODES),
    ):
        add(
            f"--{name}",
            type=options.several(options.one_of(known)),
            default=default,
            metavar="NAME,...",
            help=f"of {', '.join(known)} (default: {','.join(default)})",
        )
    of_a_function = f"to time a function in a case (default: {Settings.seconds:g})"
    add("--seconds", type=options.number("(0, inf)"), default=Settings.seconds, help=of_a_function)
    add(
        "--threads",
        type=options.several(options.whole_number("[1, inf)")),
        metavar="NUMBER,...",
        help="of the CPU; each case on one number after the other (default: as torch has it)",
    )
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


def bench(
    device: str,
    shapes: tuple[tuple[Shape, ...], ...] | None,
    json: Path | None,
    chart: Path | None,
    official: Path | None,
    **given: Any,
) -> None:
    """Time the regularizers beside the official sequence, eager and compiled, kornia, torchvision, and a copy."""
    need("bench")
    from . import run

    device = options.find_device(device)
    chosen = tuple(dict.fromkeys(itertools.chain.from_iterable(shapes or (SHAPES[device],))))
    settings = Settings(device, chosen, **given)
    if settings.autotune and not settings.compile:
        raise CommandError("--autotune and --no-compile contradict each other; leave one of them out")
    if settings.autotune and device == "cpu":
        raise CommandError("--autotune is for CUDA, but this run is on --device cpu; leave it out or use --device cuda")
    if settings.threads and device == "cuda":
        raise CommandError("--threads is for the CPU, but this run is on --device cuda; leave it out")
    run.start(settings, json, chart, official, terminal.console())
