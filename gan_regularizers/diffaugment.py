"""DiffAugment (Zhao et al., arXiv 2006.10738): differentiable colour, translation and cutout."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import choice, number, pair
from .ops import (
    Columns,
    TransformParams,
    check_floating,
    draw,
    drawn_transform,
    draws_itself,
    input_transform,
    parts_of,
    random_words,
)
from .picture import Picture, Range

# The parts of a policy in the order in which one pass of the operator applies them.
POLICIES = ("color", "translation", "cutout")

# What the copies of the official file in the host repositories use.
PRESETS: dict[str, dict[str, Any]] = {
    "data_efficient_gans": {"cutout": 0.5},
    "projected_gan": {"cutout": 0.2},
    "stylegan_xl": {"cutout": 0.2},
    "diffusion_gan": {"cutout": 0.2},
}


class DiffAugment(nn.Module):
    """Random colour, translation and cutout, drawn afresh for every sample, with gradients to the images.

    The method is that of Zhao et al. (2020), arXiv 2006.10738, with the distributions of the official code. Apply it to
    reals and fakes alike, in D's steps and in G's: ``D(aug(x))``. It acts in ``train()`` and in ``eval()``; set
    ``enabled = False`` to switch it off.

    Args:
        policy: names from ``color``, ``translation``, ``cutout``, separated by commas, applied in this order;
            repeats are allowed. Empty: the module returns its input itself.
        brightness: range of the offset b of ``x + b``, in units of images in [-1, 1].
        saturation: range of the factor about each pixel's channel mean.
        contrast: range of the factor about the sample's mean.
        translation: the largest shift, as a share of height and of width; ``int(size * translation + 0.5)`` pixels.
        cutout: the box's side, as a share of height and of width, in [0, 1]; ``int(size * cutout + 0.5)`` pixels.
        p: share of the samples that are touched, in [0, 1]; each is drawn anew.
        value_range: (low, high), what the images' values range over. The same is done to the same picture in every
            range: brightness is scaled to it, and its middle, which is 0 for [-1, 1], is what translation brings in and
            cutout leaves.
        channels: the picture's, a slice or range; None for all. The others, such as a mask or alpha, are translated and
            cut out with it and keep their values.

    Raises:
        TypeError: policy is no string, a share is no number, a range no pair or channels no slice.
        ValueError: an unknown policy name, a range that is not finite or not ascending, a share outside [0, 1].
    """

    def __init__(
        self,
        policy: str = "color,translation,cutout",
        *,
        brightness: Range = (-0.5, 0.5),
        saturation: Range = (0.0, 2.0),
        contrast: Range = (0.5, 1.5),
        translation: float = 0.125,
        cutout: float = 0.5,
        p: float = 1.0,
        value_range: Range = (-1.0, 1.0),
        channels: slice | range | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.passes = _passes(policy)
        self._words = sum([_WORDS[part] for parts in self.passes for part in parts])
        self.brightness = pair("brightness", brightness, may_be_equal=True)
        self.saturation = pair("saturation", saturation, may_be_equal=True)
        self.contrast = pair("contrast", contrast, may_be_equal=True)
        self.translation = number("translation", translation, "[0, 1]")
        self.cutout = number("cutout", cutout, "[0, 1]")
        self.p = number("p", p, "[0, 1]")
        self.picture = Picture(value_range, channels)
        self.enabled = True

    @classmethod
    def preset(cls, name: str, policy: str = "color,translation,cutout", **ranges: Any) -> "DiffAugment":
        """The ranges of a host repository: one of ``PRESETS``; keyword arguments override them.

        Raises:
            ValueError: an unknown name; the message lists the known ones.
        """
        return cls(policy, **{**PRESETS[choice("name", name, PRESETS)], **ranges})

    @property
    def active(self) -> bool:
        """Whether a forward changes its input."""
        return self.enabled and bool(self.passes) and self.p > 0.0

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[TransformParams, ...]:
        """Draw the parameters for a batch like x, an entry per pass; ``forward(x, params=...)`` replays them.

        Args:
            x: a float tensor [N, C, H, W]; only its shape and device are read.
            generator: of x's device; the default is torch's global one.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x is not [N, C, H, W], or has none of the picture's channels.
        """
        return self.params_from(self._drawn_words(x, generator), x)

    def check(self, x: Tensor) -> None:
        """Raise TypeError or ValueError unless x is a batch of images."""
        check_floating(x)
        if x.dim() != 4:
            raise ValueError(f"x has shape {list(x.shape)}; policy {self.policy!r} needs images [N, C, H, W]")

    @property
    def words(self) -> int:
        """Random words that a draw takes per sample."""
        return self._words + (self.p < 1.0)

    def columns(self, x: Tensor, row: int = 0) -> tuple[Columns, ...]:
        """What each pass draws for a batch like x, from random words that begin at a row."""
        colours = self.brightness, self.saturation, self.contrast, self.picture.half_range
        shares = self.translation, self.cutout, self.p
        size = tuple(x.shape[2:])
        # A compiler and a trace have sizes that are no numbers.
        known = not torch.compiler.is_compiling() and type(size[0]) is type(size[1]) is int
        touched_row = row + self._words if self.p < 1.0 else -1
        return (_known_columns if known else _columns)(self.passes, colours, shares, size, row, touched_row)

    def params_from(self, words: Tensor, x: Tensor) -> tuple[TransformParams, ...]:
        """What ``sample`` draws, from random words, int64 [self.words, N]."""
        drawn, _ = draw(words, self.columns(x))
        return self.params_of(drawn, x)

    def params_of(self, drawn: Sequence[tuple[Sequence[Tensor], Tensor]], x: Tensor) -> tuple[TransformParams, ...]:
        """The passes over a batch like x, from what ``ops.draw`` made of their columns."""
        centre, channels = self.picture.centre, self.picture.channels_of(x)
        return tuple([TransformParams(*parts_of(*one), centre=centre, channels=channels) for one in drawn])

    def forward(
        self,
        x: Tensor,
        *,
        params: tuple[TransformParams, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Augment a batch.

        Args:
            x: float16, bfloat16, float32 or float64 images [N, C, H, W] in ``value_range``; values that leave it are
                not clipped.
            params: from ``sample``, to repeat a draw to the bit.
            generator: of x's device, for the draw.

        Returns:
            A tensor of x's shape, dtype and memory format, differentiable any number of times with respect to x.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x is not [N, C, H, W] or has none of the picture's channels, or params do not fit it.
        """
        if not self.active:
            return x
        fits = params is None
        if fits:
            words = self._drawn_words(x, generator)
            if draws_itself(x, words, None):  # in less of the host's time
                centre, channels = self.picture.centre, self.picture.channels_of(x)
                for columns in self.columns(x):
                    x, _ = drawn_transform(x, words, columns, None, centre, channels)
                return x
            params = self.params_from(words, x)
        for one_pass in params:
            x = input_transform(x, one_pass, fits)
        return x

    def extra_repr(self) -> str:
        return f"{self.policy!r}, p={self.p}, value_range={self.picture.value_range}, channels={self.picture.channels}"

    def _drawn_words(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.check(x)
        return random_words((self.words, x.shape[0]), x.device, generator)


# Random words per sample of each part.
_WORDS = {"color": 3, "translation": 2, "cutout": 2}
Whole = tuple[int, int, int]  # number of ops.Columns: row, count, offset


def _columns(
    passes: tuple[tuple[str, ...], ...],
    colours: tuple[Range, Range, Range, float],
    shares: tuple[float, float, float],
    size: tuple[int, int],
    row: int,
    touched_row: int,
) -> tuple[Columns, ...]:
    """The columns of each pass, whose words begin at a row."""
    brightness, saturation, contrast, half_range = colours
    translation, cutout, p = shares
    columns = []
    for parts in passes:
        ranges, first, whole = [], row, []
        if "color" in parts:
            ranges = [[bound * half_range for bound in brightness], saturation, contrast]
            row += 3
        if "translation" in parts:
            whole += [_shift(row + axis, size[axis], translation) for axis in range(2)]
            row += 2
        if "cutout" in parts:
            for axis in range(2):
                whole += _interval(row + axis, size[axis], cutout)
            row += 2
        columns.append(
            Columns(
                real_row=tuple(range(first, first + len(ranges))),
                scale=tuple([high - low for low, high in ranges]),
                low=tuple([low for low, _ in ranges]),
                neutral=(0.0, 1.0, 1.0)[: len(ranges)],  # what changes nothing; so do no shift and an empty box
                row=tuple([number[0] for number in whole]),
                count=tuple([number[1] for number in whole]),
                offset=tuple([number[2] for number in whole]),
                touched_row=touched_row,
                p=p,
            )
        )
    return tuple(columns)


_known_columns = functools.lru_cache(_columns)


def _share(size: int, ratio: float) -> int:
    # int() would fix a size that varies in a compiled or exported program.
    return math.floor(size * ratio + 0.5)


def _shift(row: int, size: int, ratio: float) -> Whole:
    largest = _share(size, ratio)
    return row, 2 * largest + 1, -largest


def _interval(row: int, size: int, ratio: float) -> tuple[Whole, Whole]:
    """First zeroed pixel of one axis and the one after the last; the box may overhang the border."""
    length = _share(size, ratio)
    count, offset = size + 1 - length % 2, -(length // 2)
    return (row, count, offset), (row, count, offset + length)


def _passes(policy: str) -> tuple[tuple[str, ...], ...]:
    """Split a policy where its order or a repeat asks for another pass of the operator."""
    if not isinstance(policy, str):
        raise TypeError(f"policy={policy!r} is no string; join the names with commas, like 'color,cutout'")
    passes: list[list[str]] = []
    for name in (part.strip() for part in policy.split(",")) if policy.strip() else ():
        if name not in POLICIES:
            raise ValueError(f"policy={policy!r}: unknown name {name!r}; known are {', '.join(POLICIES)}")
        if passes and POLICIES.index(name) > POLICIES.index(passes[-1][-1]):
            passes[-1].append(name)
        else:
            passes.append([name])
    return tuple(map(tuple, passes))
