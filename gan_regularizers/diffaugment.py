"""DiffAugment (Zhao et al., arXiv 2006.10738): differentiable colour, translation and cutout."""

from typing import Any

import torch
from torch import Tensor, nn

from .ops import TransformParams, check_floating, input_transform
from .settings import choice, number

Range = tuple[float, float]

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

    Raises:
        TypeError: policy is no string, or a share is no number.
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
    ) -> None:
        super().__init__()
        self.policy = policy
        self.passes = _passes(policy)
        self.brightness = _range("brightness", brightness)
        self.saturation = _range("saturation", saturation)
        self.contrast = _range("contrast", contrast)
        self.translation = number("translation", translation, "[0, 1]")
        self.cutout = number("cutout", cutout, "[0, 1]")
        self.enabled = True

    @classmethod
    def preset(cls, name: str, policy: str = "color,translation,cutout", **ranges: Any) -> "DiffAugment":
        """The ranges of a host repository: one of ``PRESETS``; keyword arguments override them."""
        return cls(policy, **{**PRESETS[choice("name", name, PRESETS)], **ranges})

    @property
    def active(self) -> bool:
        """Whether a forward changes its input."""
        return self.enabled and bool(self.passes)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[TransformParams, ...]:
        """Draw the parameters for a batch like x, an entry per pass; ``forward(x, params=...)`` replays them.

        Args:
            x: a float tensor [N, C, H, W]; only its shape and device are read.
            generator: of x's device; the default is torch's global one.
        """
        check_floating(x)
        if x.dim() != 4:
            raise ValueError(f"x has shape {list(x.shape)}; policy {self.policy!r} needs images [N, C, H, W]")
        return tuple(self._sample_pass(parts, x, generator) for parts in self.passes)

    def forward(
        self,
        x: Tensor,
        *,
        params: tuple[TransformParams, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Augment a batch.

        Args:
            x: float16, bfloat16, float32 or float64 images [N, C, H, W], usually in [-1, 1]; values that leave that
                range are not clipped.
            params: from ``sample``, to repeat a draw to the bit.
            generator: of x's device, for the draw.

        Returns:
            A tensor of x's shape, dtype and memory format, differentiable any number of times with respect to x.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x is not [N, C, H, W], or params do not fit it.
        """
        if not self.active:
            return x
        if params is None:
            params = self.sample(x, generator)
        for one_pass in params:
            x = input_transform(x, one_pass)
        return x

    def extra_repr(self) -> str:
        return repr(self.policy)

    def _sample_pass(self, parts: tuple[str, ...], x: Tensor, generator: torch.Generator | None) -> TransformParams:
        uniform = iter(torch.rand(7, x.shape[0], device=x.device, generator=generator))
        drawn: dict[str, Tensor] = {}
        if "color" in parts:
            for name in ("brightness", "saturation", "contrast"):
                low, high = getattr(self, name)
                drawn[name] = next(uniform) * (high - low) + low
        if "translation" in parts:
            drawn["shift"] = torch.stack([_shift(size, self.translation, next(uniform)) for size in x.shape[2:]], 1)
        if "cutout" in parts:
            drawn["cutout"] = torch.cat([_interval(size, self.cutout, next(uniform)) for size in x.shape[2:]], 1)
        return TransformParams(**drawn)


def _shift(size: int, ratio: float, uniform: Tensor) -> Tensor:
    largest = int(size * ratio + 0.5)
    return _randint(2 * largest + 1, uniform) - largest


def _interval(size: int, ratio: float, uniform: Tensor) -> Tensor:
    """The zeroed pixels of one axis as [N, 2], half open; the box may overhang the border."""
    length = int(size * ratio + 0.5)
    start = _randint(size + 1 - length % 2, uniform) - length // 2
    return torch.stack([start, start + length], 1)


def _randint(count: int, uniform: Tensor) -> Tensor:
    # No product of a float below 1 and a small integer rounds up to that integer, so the result stays below count.
    return (uniform * count).long()


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


def _range(name: str, value: Range) -> Range:
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is no pair of numbers (low, high)") from None
    if not -float("inf") < low <= high < float("inf"):
        raise ValueError(f"{name}={value!r}: low and high must be finite, low not above high")
    return low, high
