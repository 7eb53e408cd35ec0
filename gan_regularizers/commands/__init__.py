"""The command ``gan-regularizers``: each module here is one of its commands, its options beside its work.

``add_parser`` of a module adds the command; modules whose names begin with an underscore are what several share.
"""

import argparse
import contextlib
import importlib
import pkgutil
import signal
import sys
from collections.abc import Sequence

from .. import __version__
from ..io import options, terminal
from ..io.errors import CommandError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as it is while a command loads
        signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal.take_all_characters()
    argv = sys.argv[1:] if argv is None else list(argv)
    others = argv[2:] if argv[:1] == ["run"] else []  # which are the script's, --help and -- too
    try:
        arguments = vars(parser().parse_args(argv[: len(argv) - len(others)]))
        if others:
            arguments["arguments"] = others
        script = arguments.pop("command")(**arguments)
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


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = options.Parser(prog="gan-regularizers", description="Regularise the input of any GAN's D.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}").add_parser(commands)
    return parser


def _message(error: CommandError | OSError) -> str:
    """Without the number of a system's error, and with the name of its file as it is."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
