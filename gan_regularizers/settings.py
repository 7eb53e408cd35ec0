"""Numbers that a user passes, or an error that names the argument."""

from typing import Any


def number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}={value!r} is no number") from None


def whole_number(name: str, value: Any) -> int:
    result = number(name, value)
    if not result.is_integer():
        raise ValueError(f"{name}={value!r} is no whole number")
    return int(value)
