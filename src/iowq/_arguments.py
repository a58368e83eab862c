"""Checks of arguments: errors name the argument and its value."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Returns value if it is an int, and no bool, from low to high."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}: {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")
    return value


def _check_number(name: str, value: object, meaning: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be {meaning}, not {type(value).__name__}: {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond floats
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise ValueError(f"{name} must be {meaning}, not {value!r}")
    return number


def check_seconds(name: str, value: object) -> float:
    """Returns value as a float if it is a number of seconds; negative counts as 0."""
    return max(0.0, _check_number(name, value, "a number of seconds"))


def check_share(name: str, value: object) -> float:
    """Returns value as a float if it is a number from 0 to 1."""
    share = _check_number(name, value, "a number from 0 to 1")
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
    return share


def deadline_after(timeout: float | None) -> float | None:
    """Returns when, by ``time.monotonic()``, the argument timeout is over; None: never."""
    return None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)


def check_callable(name: str, value: object) -> None:
    """Raises TypeError unless value can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}: {value!r}")


def check_names(name: str, value: object) -> frozenset[str]:
    """Returns value as a set if it is an iterable of str, and no str."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be an iterable of str, not {value!r}")
    names = list(value)
    for item in names:
        if not isinstance(item, str):
            raise TypeError(f"{name} must be an iterable of str, not with {item!r} in it")
    return frozenset(names)
