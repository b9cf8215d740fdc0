"""Values as JSON holds them, checked: each function returns what its name says, or raises ValueError.

Whoever wrote a file may have written anything. What passes these checks has the type that it is used as.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from sdprobe.core.short_repr import short_repr

T = TypeVar("T")
MOST = 10_000  # images, steps and hooks of a run: more is no run, and must not cost its reader memory
MOST_ENTRIES = 1_000_000  # sums, tensors and tokens that a record or a prompt may have
LONGEST_LINE = 1_000


def text(given: Any) -> str:
    """Return a text."""
    if not isinstance(given, str):
        raise ValueError(f"{short_repr(given)} where a text is needed")
    return given


def line(given: Any) -> str:
    """Return a text that can be printed as it is: one line without control characters.

    >>> line("DDIMScheduler")
    'DDIMScheduler'
    >>> line("\\x1b[31mred")
    Traceback (most recent call last):
    ValueError: '\\x1b[31mred' where one line of at most 1000 printable characters is needed
    """
    if not text(given).isprintable() or len(given) > LONGEST_LINE:
        raise ValueError(f"{short_repr(given)} where one line of at most {LONGEST_LINE} printable characters is needed")
    return str(given)


def count(given: Any, most: int = MOST) -> int:
    """Return a number from 0 to ``most``."""
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= most:
        raise ValueError(f"{short_repr(given)} where a whole number from 0 to {most} is needed")
    return given


def whole(given: Any) -> int:
    """Return a whole number."""
    if not isinstance(given, int) or isinstance(given, bool):
        raise ValueError(f"{short_repr(given)} where a whole number is needed")
    return given


def number(given: Any) -> float:
    """Return a finite number."""
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not math.isfinite(given):
        raise ValueError(f"{short_repr(given)} where a finite number is needed")
    return float(given)


def flag(given: Any) -> bool:
    """Return whether something is so."""
    if not isinstance(given, bool):
        raise ValueError(f"{short_repr(given)} where true or false is needed")
    return given


def listed(given: Any, most: int = MOST) -> list[Any]:
    """Return a list of at most ``most``."""
    if not isinstance(given, list) or len(given) > most:
        raise ValueError(f"{short_repr(given)} where a list of at most {most} is needed")
    return given


def mapping(given: Any) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(given, dict):
        raise ValueError(f"{short_repr(given)} where a JSON object is needed")
    return given


def pair(given: Any, most: int = MOST) -> tuple[int, int]:
    """Return two numbers from 0 to ``most``, such as a size."""
    if not isinstance(given, list) or len(given) != 2:
        raise ValueError(f"{short_repr(given)} where two numbers are needed")
    return count(given[0], most), count(given[1], most)


def one_of(given: Any, choices: tuple[T, ...], what: str) -> T:
    """Return one of some choices.

    >>> one_of("both", ("cond", "uncond"), "role of a row")
    Traceback (most recent call last):
    ValueError: 'both' is no role of a row
    """
    if given not in choices:
        raise ValueError(f"{short_repr(given)} is no {what}")
    found: T = given
    return found
