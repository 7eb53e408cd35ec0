"""What options of several commands have in common."""

import argparse

from .. import DiffAugment
from ..io.errors import CommandError
from ..io.options import whole_number

Commands = argparse._SubParsersAction

DEVICES = ("auto", "cpu", "cuda")
seed = whole_number(f"[0, {2**32 - 1}]")


def check_policy(policy: str) -> None:
    """Say so, if DiffAugment takes no such policy."""
    try:
        DiffAugment(policy)
    except ValueError as error:
        raise CommandError(f"--{error}") from error
