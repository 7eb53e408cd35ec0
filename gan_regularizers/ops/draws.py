"""What a draw makes of random words, for one pass of the operator or the noise on it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Columns(NamedTuple):
    """The numbers that one pass draws for each sample. A uniform u in [0, 1) is the top 24 bits of a word.

    The reals are brightness, saturation and contrast, or none; the whole numbers are a shift, a box to cut out or both.

    Where the uniform of ``touched_row`` is not below p, the sample has the neutral reals and whole numbers of 0.
    """

    # Reals: scale u + low, with u from their row of the words.
    real_row: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    neutral: tuple[float, ...] = ()
    # Whole numbers: uniform over offset .. offset + count - 1.
    row: tuple[int, ...] = ()
    count: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()

    touched_row: int = -1  # none: all samples are touched
    p: float = 1.0


class Steps(NamedTuple):
    """The steps t of N samples, given or drawn from a list by the lowest bits of a row of words, and two tables."""

    row: int
    t: Tensor | None  # int64 [N], in [0, len(gain))
    t_list: Tensor  # int64 [a power of two]
    gain: Tensor  # float32 [steps + 1]
    noise_scale: Tensor  # float32 [steps + 1]


class Levels(NamedTuple):
    """The noise levels at the steps."""

    t: Tensor  # int64 [N]
    gain: Tensor  # float32 [N]
    noise_std: Tensor  # float32 [N]


class DrawnPass(NamedTuple):
    """The parameters of one pass as a launch drew them, with no tensor for each; they are ready for the kernels."""

    reals: Tensor  # float32 [R, N]: those of its columns and, of noise, gain and noise_std
    whole: Tensor  # int64 [N, W]
    noisy: bool
    centre: float
    channels: tuple[int, int] | None
    words: Tensor  # int64 [rows, N], contiguous, with the seeds of noise
    seed_row: int

    def is_per_channel(self) -> bool:
        """As that of ``TransformParams``; what is drawn in a launch is for samples."""
        return False

    def linear(self) -> tuple[Tensor | None, ...]:
        """What the backward pass needs, a tensor each: saturation, contrast, shift, cutout and gain."""
        reals, rows = self.reals, self.reals.shape[0]
        colours = [None, reals.select(0, 1), reals.select(0, 2)] if rows > 2 else ()
        _, *parts = parts_of(colours, self.whole)
        return *parts, reals.select(0, rows - 2) if self.noisy else None

    def addresses(self) -> list[int]:
        """Where the parts lie in memory, in the order of ``TransformParams``; 0 for one that is left out."""
        (rows, samples), width = self.reals.shape, self.whole.shape[1]
        reals, whole, row = self.reals.data_ptr(), self.whole.data_ptr(), 4 * samples
        brightness = saturation = contrast = gain = noise_std = seeds = 0
        if rows > 2:
            brightness, saturation, contrast = reals, reals + row, reals + 2 * row
        if self.noisy:
            gain, noise_std = reals + (rows - 2) * row, reals + (rows - 1) * row
            seeds = self.words.data_ptr() + 8 * samples * self.seed_row
        shift = whole if width in (2, 6) else 0
        cutout = whole + 8 * (width - 4) if width >= 4 else 0
        return [brightness, saturation, contrast, shift, cutout, gain, noise_std, seeds]


def parts_of(reals: Sequence[Tensor], whole: Tensor) -> tuple[Tensor | None, ...]:
    """Brightness, saturation, contrast, shift and cutout from what the columns of a pass drew: its reals by row."""
    shift = cutout = None
    if whole.shape[1] == 6:
        shift, cutout = whole.split_with_sizes((2, 4), 1)
    elif whole.shape[1] == 4:
        cutout = whole
    elif whole.shape[1] == 2:
        shift = whole
    return *(reals or (None, None, None)), shift, cutout
