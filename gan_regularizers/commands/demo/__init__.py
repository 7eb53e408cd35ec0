"""The command ``gan-regularizers demo``: one small GAN on few real images, with and without the regularizers."""

import argparse
import os
from pathlib import Path
from typing import Any

from ...io import options, terminal
from ...io.errors import CommandError
from .._extras import need
from .._options import DEVICES, Commands, check_policy, seed
from .settings import RESOLUTIONS, Settings


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
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
    add("--device", choices=DEVICES, help="(default: auto)")
    add("--out", type=options.path, metavar="FOLDER", help="for checkpoints, pictures and numbers (default: demo-out)")
    add("--resume", action="store_true", help="continue the run in --out")


def demo(resume: bool = False, **given: Any) -> None:
    """Train a small GAN without and with the regularizers, side by side."""
    need("demo")
    from . import run

    out = given.pop("out", Path("demo-out"))
    console = terminal.console()
    if resume:
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise CommandError(f"--resume continues a run with its own settings; leave out {names}")
        run.resume(out, console)
        return
    check_policy(given.get("policy", ""))
    given["device"] = options.find_device(given.get("device", "auto"))
    if "data" in given:
        given["data"] = os.path.realpath(given["data"])
    run.start(out, Settings(**given), console)
