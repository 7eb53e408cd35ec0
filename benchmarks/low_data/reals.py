"""The real images of an experiment: some to train on, and two sets of as many held-out ones, with their features."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from measures import NEAREST
from torch import Tensor

from gan_regularizers.commands.demo.images import split_portraits
from gan_regularizers.io import images
from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import write_atomically
from gan_regularizers.spider.features import Lite0Features


@dataclass(frozen=True)
class Source:
    """Where the images come from.

    Attributes:
        data: a folder or zip; None for the portraits of the demo.
        held_out: another one to measure against; None to hold out half of data.
    """

    data: Path | None = None
    held_out: Path | None = None

    def __post_init__(self) -> None:
        if self.held_out is not None and self.data is None:
            raise CommandError(f"--held-out {self.held_out} needs --data: the images to train on")
        if self.held_out is not None and self.held_out.resolve() == self.data.resolve():
            raise CommandError(f"--held-out {self.held_out} is --data itself; leave it out to hold out half of it")

    @property
    def name(self) -> str:
        """Of the data, for tables."""
        return "portraits" if self.data is None else self.data.stem

    @cached_property
    def digest(self) -> str:
        """A hash of all images, wherever they lie, by which runs and caches of other ones are told."""
        digest = hashlib.sha256()
        for path in (self.data, self.held_out):
            for name, content in images.files(path) if path is not None else ():
                inside = name.removeprefix(str(path))
                digest.update(inside.encode(errors="surrogateescape") + hashlib.sha256(content).digest())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Reals:
    """Images uint8 [N, 3, R, R] and their lite0 features [N, 1280].

    Attributes:
        train: to train on.
        held_out: to measure against.
        others: held out too, as many; what they score is the floor. (Portraits have variants in skin tone in either
            held-out set, so their floor is too good.)
        source: the digest of where they come from.
    """

    train: Tensor
    held_out: Tensor
    others: Tensor
    train_features: Tensor
    held_out_features: Tensor
    other_features: Tensor
    source: str


def load(source: Source, count: int, most: int, resolution: int, cache: Path) -> Reals:
    """Choose ``count`` images to train on and two held-out sets of ``most`` images, or of as many as there are.

    Which images is the same for every run; those of a smaller count are among those of a larger one.

    Args:
        source: of the images.
        count: images to train on.
        most: images in a held-out set.
        resolution: of the images.
        cache: a folder that keeps what was chosen and its features.

    Raises:
        CommandError: images that cannot be read, or too few.
    """
    kept = cache / f"{source.name}-{source.digest}-{count}-{most}-{resolution}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return Reals(**{name: torch.from_numpy(array) for name, array in arrays.items()}, source=source.digest)
    pool, held_out = _split(source, count, resolution)
    most = min(most, len(held_out) // 2)
    has = f"{source.name} has {len(pool)} images to train on and {len(held_out)} held out"
    if count > len(pool):
        raise CommandError(f"{has}; --images {count} is too many")
    if most <= NEAREST:
        raise CommandError(f"{has}; at least {2 * NEAREST + 2} must be held out")
    parts = {"train": pool[:count], "held_out": held_out[:most], "others": held_out[most : 2 * most]}
    network = Lite0Features()
    features = (network(part.float() / 127.5 - 1) for part in parts.values())
    names = ("train_features", "held_out_features", "other_features")
    parts |= dict(zip(names, features, strict=True))
    stream = io.BytesIO()
    np.savez(stream, **{name: value.numpy() for name, value in parts.items()})
    cache.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, stream.getvalue())
    return Reals(**parts, source=source.digest)


def _split(source: Source, count: int, resolution: int) -> tuple[Tensor, Tensor]:
    """The images to choose those to train on from, and the held-out ones, both in random order."""
    if source.data is None:
        pool, held_out = split_portraits(resolution, count)
        return pool, _shuffled(held_out)
    pool = _shuffled(images.load(source.data, resolution))
    if source.held_out is not None:
        return pool, _shuffled(images.load(source.held_out, resolution))
    return pool[: len(pool) // 2], pool[len(pool) // 2 :]


def _shuffled(parts: Tensor) -> Tensor:
    return parts[np.random.default_rng(0).permutation(len(parts))]
