"""The command ``gan-regularizers preview``."""

import argparse
from pathlib import Path

from ...diffusion_noise import SCHEDULES
from ...io import options
from ...io.terminal import printable
from .._extras import need
from .._options import Commands, check_policy, seed


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
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


def preview(images: list[Path], policy: str, noise_std: float, t_max: int, schedule: str, seed: int, out: Path) -> None:
    """Draw pictures under the policy and at several t, and the schedule."""
    need("demo")
    from . import pictures

    check_policy(policy)
    pictures.draw(images, policy, noise_std, t_max, schedule, seed, out)
    print(f"Wrote {printable(out)}")
