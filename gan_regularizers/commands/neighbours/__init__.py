"""The command ``gan-regularizers neighbours``."""

from pathlib import Path
from typing import Any

from ...io import options, terminal
from ...spider.distance import RADII
from .._extras import need
from .._options import DEVICES, Commands, seed


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
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
    add("--device", choices=DEVICES, default="auto", help="of the network (default: auto)")
    add(
        "--cache",
        type=options.path,
        metavar="FOLDER",
        help="for features (default: gan_regularizers in your cache folder)",
    )
    add("--json", type=options.path, metavar="FILE", help="for all figures")
    chart = Path("neighbours.png")
    add("--chart", type=options.path, default=chart, metavar="PNG", help=f"for the curves (default: {chart})")


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
    need("spider")
    from . import ranking

    console = terminal.console()
    ranking.start(target, sources, features, options.find_device(device), cache, json, chart, seed, settings, console)
