"""Numbers that a run can compute with. One that is NaN or infinite ends in a black picture, without a word."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def refuse_not_finite(name: str, value: Any) -> None:
    """Refuse a number, or a tensor, that is NaN or infinite in any entry; and what is no number at all.

    Args:
        name: what the user calls it.
        value: a number, or a tensor of numbers.

    Raises:
        TypeError: for what is no number, a text for instance.
        ValueError: for NaN and for infinity.
    """
    if isinstance(value, Tensor):
        if not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise ValueError(f"{name} must be finite: {count} of its {value.numel()} numbers are NaN or infinite")
    elif not hasattr(value, "__float__"):
        raise TypeError(f"{name} is a number, not {value!r}")
    elif not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
