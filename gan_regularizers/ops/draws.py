"""What a draw makes of random words, for one pass of the operator or the noise on it."""

from typing import NamedTuple

from torch import Tensor


class Columns(NamedTuple):
    """The numbers that one pass draws for each sample. A uniform u in [0, 1) is the top 24 bits of a word.

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
