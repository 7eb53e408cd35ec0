"""What of a batch of images is picture: the range of its values and its channels."""

import dataclasses
import operator

from torch import Tensor

from .arguments import pair

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Picture:
    """The range of the values of images, and which of their channels are picture: not alpha, a mask or a depth.

    Args:
        value_range: (low, high), what black and white are.
        channels: a slice or range of neighbouring channels, counted from the end where a slice's bound is negative;
            None for all.

    Raises:
        TypeError: value_range is no pair of numbers, or channels is no slice or range of whole numbers.
        ValueError: low and high are not finite or low is not below high; channels skips some or runs backwards.
    """

    value_range: Range = (-1.0, 1.0)
    channels: slice | range | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", pair("value_range", self.value_range, may_be_equal=False))
        _check_channels(self.channels)

    @property
    def centre(self) -> float:
        """The grey in the middle of the range."""
        return (self.value_range[0] + self.value_range[1]) / 2

    @property
    def half_range(self) -> float:
        """From the grey to white; 1 for images in [-1, 1]."""
        return (self.value_range[1] - self.value_range[0]) / 2

    def channels_of(self, x: Tensor) -> tuple[int, int] | None:
        """The picture's channels of x [N, C, ...] as (begin, end) with 0 <= begin < end <= C; None for all.

        Raises:
            ValueError: x has none of them.
        """
        if self.channels is None:
            return None
        channels = x.shape[1]
        begin = _position(self.channels.start, 0, channels)
        end = _position(self.channels.stop, channels, channels)
        if begin >= end:
            raise ValueError(
                f"channels={self.channels!r} selects none of the {channels} channels of x, which has shape "
                f"{list(x.shape)}; pass a slice that does, or channels=None for all"
            )
        return begin, end


def _position(bound: int | None, otherwise: int, channels: int) -> int:
    """A bound of a slice as Python reads it; spelled out, since ``slice.indices`` cannot be compiled."""
    if bound is None:
        return otherwise
    if bound < 0:
        bound += channels
    return min(max(bound, 0), channels)


def _check_channels(channels: slice | range | None) -> None:
    if channels is None:
        return
    if not isinstance(channels, (slice, range)):
        raise TypeError(f"channels={channels!r} is no slice or range; for the first three pass channels=slice(0, 3)")
    try:
        step = operator.index(1 if channels.step is None else channels.step)
        bounds = [operator.index(bound) for bound in (channels.start, channels.stop) if bound is not None]
    except TypeError:
        raise TypeError(f"channels={channels!r} has a bound that is no whole number") from None
    if step != 1:
        raise ValueError(
            f"channels={channels!r} has step {step}; the picture's channels are neighbours, so 1 is needed"
        )
    if isinstance(channels, range) and min(bounds) < 0:
        raise ValueError(f"channels={channels!r} has a negative bound; a slice counts from the end")
