"""Spider GAN in the upstream repositories: what ``--spider`` feeds to the mapping network of G, in place of z.

What is fed is a part of the mapping network, so it moves, trains in parallel and stands in snapshots as G does, and
whoever calls the mapping network with a z, as metrics, projectors and style mixing do, stays on it.
"""

import inspect
import re
import zlib
from pathlib import Path
from typing import Any

import click
from torch import nn

from ..io import images
from ..io.errors import CommandError
from ..io.terminal import printable
from ..spider.image_latents import STORED_SIDE, ImageLatents
from . import train_options
from .snapshot_parts import FrozenGenerator, ThroughLatents, add_hook, construct, full_name
from .train_options import load_snapshot


def configure(c: Any, desc: str, snapshot: dict[str, Any] | None) -> str:
    """Put what the options ``--spider...`` ask for, or what ``--resume`` goes on with, into upstream's configuration.

    Args:
        c: the keyword arguments of upstream's training_loop, changed in place.
        desc: the name of the run.
        snapshot: the contents of the one to resume from.

    Returns:
        The name of the run with what is fed in it, and a checksum, since ProjectedGAN goes on in a folder of that name.

    Raises:
        click.UsageError: images or a generator that cannot be had or fed to this G, or a resumed G that has its own.
    """
    given = train_options.given()
    source, geometry = given.get("spider"), given.get("spider_geometry")
    latents = latents_of(snapshot["G_ema"]) if snapshot is not None else None
    if latents is not None:
        if source is not None or geometry is not None:
            raise click.UsageError(f"{c.resume_pkl} goes on with what was fed to its G; leave --spider out")
        source = c.resume_pkl
        settings = {"resume": source}
    elif source is None:
        if geometry is not None:
            raise click.UsageError(f"--spider-geometry={geometry} needs --spider")
        return desc
    else:
        settings = {"source": source, "geometry": _geometry(geometry)}
        latents = build(**settings, z_dim=_z_dim(c.G_kwargs), centered=False)  # a check; the mean image may take long
        if latents.look_alike():
            why = "it has one image" if latents.source is None and len(latents.images) == 1 else "its images look alike"
            raise click.UsageError(f"--spider={source} gives the same latent for every z: {why}; give varied ones")
        if snapshot is not None:
            print(f"The G of {c.resume_pkl} was trained on Gaussians; --spider changes its input")
    size = sum(buffer.nbytes for buffer in latents.buffers())
    what = "a frozen generator" if latents.source is not None else f"{len(latents.images):,} images"
    print(f"G is fed {what} from {printable(source)}, {size / 1e6:.1f} MB in each of G and G_ema of a snapshot")
    c.G_kwargs.update(class_name=full_name(generator), base=c.G_kwargs.class_name, spider=settings)
    return f"{desc}-spider-{_name(source, latents)}"


def generator(base: str, spider: dict[str, Any], **kwargs: Any) -> nn.Module:
    """Upstream's generator, whose mapping network sees images, or those of another generator, in place of z.

    Args:
        base: name of upstream's class.
        spider: arguments of ``build``, or ``resume``, the snapshot whose latents go on.
        kwargs: of upstream's class.
    """
    G = construct({"class_name": base, **kwargs})
    if "resume" in spider:
        G.mapping.latents = latents_of(load_snapshot(spider["resume"])["G_ema"])
    else:
        G.mapping.latents = build(**spider, z_dim=G.z_dim)
    add_hook(G.mapping._forward_pre_hooks, ThroughLatents())
    add_hook(G.mapping._forward_pre_hooks_with_kwargs, True)
    return G


def build(source: str, geometry: list[int] | None, z_dim: int, centered: bool = True) -> ImageLatents:
    """The latents that the images of a folder or zip, or the G_ema of a snapshot, give.

    Raises:
        click.UsageError: they cannot be had, or not with this geometry or z_dim.
    """
    try:
        if Path(source).suffix == ".pkl":
            return ImageLatents(_frozen(source, z_dim), z_dim, geometry=geometry, centered=centered)
        path = Path(source)
        licence = images.licence(path) or f"No licence file was found in {path.resolve().name}."
        stored = images.load(path, STORED_SIDE)
        return ImageLatents(stored, z_dim, geometry=geometry, centered=centered, licence=licence)
    except CommandError as error:
        raise click.UsageError(f"--spider: {error}") from error
    except ValueError as error:
        option = "--spider-" if str(error).startswith("geometry") else "--spider: "
        raise click.UsageError(f"{option}{error}") from error


def latents_of(G: nn.Module) -> ImageLatents | None:
    """What is fed to the mapping network of a G, if it is not z itself."""
    return getattr(getattr(G, "mapping", None), "latents", None)


def _frozen(source: str, z_dim: int) -> FrozenGenerator:
    G = load_snapshot(source, "spider")["G_ema"]
    if G.c_dim:
        raise click.UsageError(f"--spider={source} needs labels, of which none are fed; it was trained with --cond")
    if G.z_dim > z_dim:
        raise click.UsageError(f"--spider={source} needs a z of {G.z_dim} numbers; that of this G has {z_dim}")
    return FrozenGenerator(G)


def _geometry(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d+x\d+", text, re.ASCII):
        raise click.UsageError(f"--spider-geometry={text} is not ROWSxCOLUMNS, such as 16x32")
    return [int(side) for side in text.split("x")]


def _z_dim(G_kwargs: dict[str, Any]) -> int:
    """Numbers in z; ProjectedGAN leaves them to FastGAN's class."""
    if "z_dim" in G_kwargs:
        return G_kwargs["z_dim"]
    import dnnlib

    return inspect.signature(dnnlib.util.get_obj_by_name(G_kwargs["class_name"])).parameters["z_dim"].default


def _name(source: str, latents: ImageLatents) -> str:
    """A short name of letters that need no escape in a regular expression, as which ProjectedGAN reads it."""
    stem = re.sub(r"\W+", "_", Path(source).resolve().stem, flags=re.ASCII)[:32]
    total = zlib.crc32(repr(latents.geometry).encode())
    for name, buffer in latents.named_buffers():
        if name != "mean_latent":  # follows from the others, but for rounding
            total = zlib.crc32(buffer.contiguous().cpu().numpy(), total)
    return f"{stem}-{total:08x}"
