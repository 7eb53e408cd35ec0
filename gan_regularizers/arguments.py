"""Settings that a user passes, or an error that names the argument, the value and what is allowed."""

import math
from collections.abc import Collection
from typing import Any


def number(name: str, value: Any, interval: str) -> float:
    """The value as a float, if it lies in an interval such as ``"[0, 1)"``; NaN lies in none.

    Raises:
        TypeError: the value is no number.
        ValueError: it lies outside the interval.
    """
    try:
        result = float(None if isinstance(value, str) else value)  # float() would read a string
    except OverflowError:
        result = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} is no number") from None
    low, high = map(float, interval[1:-1].split(","))
    above = result >= low if interval.startswith("[") else result > low
    below = result <= high if interval.endswith("]") else result < high
    if not (above and below):
        raise ValueError(f"{name}={value!r} is outside {interval}")
    return result


def whole_number(name: str, value: Any, interval: str) -> int:
    """Like ``number``, for whole numbers."""
    number(name, value, interval)
    if int(value) != value:
        raise ValueError(f"{name}={value!r} is no whole number")
    return int(value)


def pair(name: str, value: Any, *, may_be_equal: bool) -> tuple[float, float]:
    """The value as (low, high), if it is a pair of finite numbers, the first below the second.

    Raises:
        TypeError: the value is no pair of numbers.
        ValueError: a number is not finite, or the first is above the second (or equal, unless that may be).
    """
    try:
        low, high = (float(None if isinstance(bound, str) else bound) for bound in value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} is no pair of numbers (low, high)") from None
    if not -math.inf < low <= high < math.inf or (low == high and not may_be_equal):
        order = "not above" if may_be_equal else "below"
        raise ValueError(f"{name}={value!r}: low and high must be finite, and low {order} high")
    return low, high


def choice(name: str, value: str, allowed: Collection[str]) -> str:
    """The value, if it is one of the allowed ones; ValueError otherwise."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}")
    return value
