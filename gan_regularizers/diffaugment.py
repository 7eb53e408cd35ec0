"""DiffAugment (Zhao et al., arXiv 2006.10738): differentiable colour, translation and cutout."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .ops import TransformParams, check_floating, draw, input_transform, random_words
from .picture import Picture, Range
from .settings import choice, number, pair

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

    Apply it to reals and fakes alike, in D's steps and in G's: ``D(aug(x))``. It acts in ``train()`` and in
    ``eval()``; set ``enabled = False`` to switch it off.

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
        """The ranges of a host repository: one of ``PRESETS``; keyword arguments override them."""
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
        """
        self.check(x)
        return self.params_from(random_words((self.words, x.shape[0]), x.device, generator), x)

    def check(self, x: Tensor) -> None:
        """Raise TypeError or ValueError unless x is a batch of images."""
        check_floating(x)
        if x.dim() != 4:
            raise ValueError(f"x has shape {list(x.shape)}; policy {self.policy!r} needs images [N, C, H, W]")

    @property
    def words(self) -> int:
        """Random words that a draw takes per sample."""
        return sum(_WORDS[part] for parts in self.passes for part in parts) + (self.p < 1.0)

    def params_from(self, words: Tensor, x: Tensor) -> tuple[TransformParams, ...]:
        """What ``sample`` draws, from random words, int64 [self.words, N]."""
        touched = self._touched(words[-1:]) if self.p < 1.0 else None
        params, row = [], 0
        for parts in self.passes:
            end = row + sum(_WORDS[part] for part in parts)
            params.append(self._pass_from(parts, words[row:end], x, touched))
            row = end
        return tuple(params)

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
        if params is None:
            params = self.sample(x, generator)
        for one_pass in params:
            x = input_transform(x, one_pass)
        return x

    def extra_repr(self) -> str:
        return f"{self.policy!r}, p={self.p}, value_range={self.picture.value_range}, channels={self.picture.channels}"

    def _touched(self, words: Tensor) -> Tensor:
        """Which samples are touched, bool [N], from one row of words."""
        (uniform,), _ = draw(words, [(0.0, 1.0)], [])
        return uniform < self.p

    def _pass_from(self, parts: tuple[str, ...], words: Tensor, x: Tensor, touched: Tensor | None) -> TransformParams:
        ranges, integers = [], []
        if "color" in parts:
            brightness = [bound * self.picture.half_range for bound in self.brightness]
            ranges = [brightness, self.saturation, self.contrast]
        row = len(ranges)
        if "translation" in parts:
            integers += [_shift(row + axis, size, self.translation) for axis, size in enumerate(x.shape[2:])]
            row += 2
        if "cutout" in parts:
            for axis, size in enumerate(x.shape[2:]):
                integers += _interval(row + axis, size, self.cutout)
        reals, whole = draw(words, ranges, integers)
        if touched is not None:
            # What changes nothing: no shift, an empty box, and these factors.
            whole = whole * touched[:, None]
            reals = [torch.where(touched, real, neutral) for real, neutral in zip(reals, (0.0, 1.0, 1.0), strict=False)]
        return TransformParams(
            *(reals if ranges else (None, None, None)),
            shift=whole[:, :2] if "translation" in parts else None,
            cutout=whole[:, -4:] if "cutout" in parts else None,
            centre=self.picture.centre,
            channels=self.picture.channels_of(x),
        )


# Random words per sample of each part.
_WORDS = {"color": 3, "translation": 2, "cutout": 2}
Column = tuple[int, int, int]  # of ops.draw: row of the words, count, offset


def _share(size: int, ratio: float) -> int:
    # int() would fix a size that varies in a compiled or exported program.
    return math.floor(size * ratio + 0.5)


def _shift(row: int, size: int, ratio: float) -> Column:
    largest = _share(size, ratio)
    return row, 2 * largest + 1, -largest


def _interval(row: int, size: int, ratio: float) -> tuple[Column, Column]:
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
