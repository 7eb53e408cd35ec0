"""The command ``gan-regularizers run``."""

from collections.abc import Callable, Sequence

from ..adapters import launcher
from ._options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command; all that follows the script is handed to it."""
    command = commands.add_parser(
        "run",
        help="run a script of a checkout as it is, with --reg",
        description=run.__doc__,
        usage="gan-regularizers run SCRIPT [its options] [--reg=...] [--spider=...]",
    )
    command.set_defaults(command=run)
    add = command.add_argument
    add("script", metavar="SCRIPT", help="such as PATH/train.py or PATH/gen_images.py; what follows is the script's")


def run(script: str, arguments: Sequence[str] = ()) -> Callable[[], None]:
    """Run a script of a checkout, in which nothing is changed; train.py takes --reg and --spider beside its options."""
    return launcher.launch(script, arguments)
