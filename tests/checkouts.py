"""Small checkouts that stand for upstream's: the structure of their files, and training that only says what it got."""

from pathlib import Path

PACKAGE = '''"""Shared."""

from __future__ import annotations
from .util import EasyDict
'''

UTIL = """import importlib


class EasyDict(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def get_obj_by_name(name):
    module, _, item = name.rpartition(".")
    return getattr(importlib.import_module(module), item)


def construct_class_by_name(*args, class_name, **kwargs):
    return get_obj_by_name(class_name)(*args, **kwargs)
"""

GRADFIX = "enabled = False\n\n\ndef grid_sample(input, grid):\n    return input\n"

LOOP = """import json
import os
import torch
import dnnlib
from torch_utils.ops import conv2d_gradfix
from torch_utils.ops import grid_sample_gradfix


def training_loop(
    rank=0,
    run_dir=".",
    training_set_kwargs={},
    G_kwargs={},
    D_kwargs={},
    loss_kwargs={},
    augment_kwargs=None,
    augment_p=0,
    ada_target=None,
    ada_kimg=500,
    random_seed=0,
    num_gpus=1,
    resume_pkl=None,
):
    device = torch.device("cuda", rank)
    conv2d_gradfix.enabled = True
    grid_sample_gradfix.enabled = True

    pipe = dnnlib.util.construct_class_by_name(**augment_kwargs) if augment_kwargs else None
    seen = {"pipe": type(pipe).__name__, "device": str(device), "switched": conv2d_gradfix.enabled, "p": augment_p}
    with open(os.path.join(run_dir, f"{rank}.json"), "w") as file:
        json.dump(seen, file)
    if random_seed == 13:
        raise ValueError("unlucky")
    if random_seed == 14:
        raise SystemExit(14)
    if random_seed == 15:
        print("waiting", flush=True)
        import time
        time.sleep(60)
"""

# As StyleGAN3 launches training, and as StyleGAN2-ADA does.
LAUNCHED = '''"""Train."""

import json
import click
import torch
import dnnlib

from training import training_loop


def subprocess_fn(rank, c):
    training_loop.training_loop(rank=rank, **c)


def launch_training(c, desc, dry_run):
    print(json.dumps({"desc": desc, **c}))
    if dry_run:
        return
    if c.num_gpus == 1:
        subprocess_fn(0, c)
    else:
        torch.multiprocessing.spawn(fn=subprocess_fn, args=(c,), nprocs=c.num_gpus)


@click.command()
@click.option("--outdir", default=".")
@click.option("--gpus", type=int, default=1)
@click.option("--seed", type=int, default=0)
@click.option("--dry-run", is_flag=True)
def main(**kwargs):
    """Train a GAN."""
    opts = dnnlib.EasyDict(kwargs)
    c = dnnlib.EasyDict(run_dir=opts.outdir, num_gpus=opts.gpus, random_seed=opts.seed)
    c.training_set_kwargs = dnnlib.EasyDict(use_labels=False)
    c.G_kwargs = dnnlib.EasyDict(class_name="torch.nn.Identity")
    c.D_kwargs = dnnlib.EasyDict(class_name="torch.nn.Identity")
    c.loss_kwargs = dnnlib.EasyDict(class_name="torch.nn.Identity")
    desc = "run"

    launch_training(c=c, desc=desc, dry_run=opts.dry_run)


if __name__ == "__main__":
    main()
'''

SET_UP = """import click
import dnnlib
from training import training_loop


def setup_training_loop_kwargs(**kwargs):
    return "run", dnnlib.EasyDict(kwargs)


@click.command()
@click.pass_context
@click.option("--outdir")
@click.option("--dry-run", is_flag=True)
def main(ctx, outdir, dry_run, **config_kwargs):
    try:
        run_desc, args = setup_training_loop_kwargs(**config_kwargs)
    except OSError as err:
        ctx.fail(err)

    print(run_desc)
    training_loop.training_loop(**args)


if __name__ == "__main__":
    main()
"""

SCRIPT = """import sys
import click


@click.command()
@click.option("--seed", type=int)
def generate(seed):
    import torch
    import dnnlib
    torch.utils.data.Sampler([])
    print(__name__, sys.argv, seed, dnnlib.__name__)


if __name__ == "__main__":
    generate()
"""


def write(folder: Path, **files: str | bytes) -> Path:
    """A checkout as of StyleGAN3; ``train`` and ``loop`` are other contents of these two."""
    contents = {
        "dnnlib/__init__.py": PACKAGE,
        "dnnlib/util.py": UTIL,
        "torch_utils/__init__.py": "",
        "torch_utils/ops/__init__.py": "",
        "torch_utils/ops/conv2d_gradfix.py": GRADFIX,
        "torch_utils/ops/grid_sample_gradfix.py": GRADFIX,
        "training/__init__.py": "",
        "training/training_loop.py": files.get("loop", LOOP),
        "train.py": files.get("train", LAUNCHED),
        "gen_images.py": SCRIPT,
    }
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but for what Python compiled."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
