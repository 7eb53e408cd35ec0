"""Diffusion-GAN's own StyleGAN2 and InsGen: the noise in place of the diffusion that is there already.

The loop moves p of what it calls the diffusion, or the augment_pipe, and D takes its t beside the label, as a number.
"""

from typing import Any

import click

from . import resuming, train_options
from .snapshot_parts import Diffusion, full_name
from .stylegan import put_pipe
from .train_options import Host, accepted_arguments, refuse, require

_HOST = Host(
    "the repository's diffusion",
    noise={"uniform": "new_data", "priority": "stylegan2"},
    modes=("none", "diffaug", "diffusion", "diffaug+diffusion"),
    spider=False,
    conditions="t-raw",
)

options = train_options.options(_HOST)


def configure(args: Any, desc: str) -> str:
    """``stylegan.configure`` for Diffusion-GAN, with the noise in place of its own; G is fed nothing but z."""
    regularizers = train_options.resolve(_HOST, args.random_seed)
    snapshot = resuming.load(args)
    resuming.check(args, snapshot)
    if regularizers is None:
        return desc
    if regularizers.condition not in (None, "t-raw"):
        refuse(
            "condition", regularizers.condition, "is not possible: this D is made for the number t itself; use t-raw"
        )
    if args.get("ada_linear"):
        raise click.UsageError("--ada_linear does not go with --reg, which moves p by --reg-target; leave it out")
    name = "diffusion" if "diffusion_kwargs" in accepted_arguments() else "augment"
    require(f"{name}_kwargs", f"{name}_p", "ada_target", "ada_kimg")
    pipe = {"class_name": full_name(Diffusion), "diffaug": regularizers.diffaug, "noise": regularizers.noise}
    before = snapshot and (snapshot.get("diffusion") or snapshot.get("augment_pipe"))
    put_pipe(args, pipe, regularizers, before, name)
    return desc + regularizers.desc
