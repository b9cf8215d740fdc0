"""Check that numbers are finite. A run with NaN or infinity would give a black image without an error."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def refuse_not_finite(name: str, value: Any) -> None:
    """Refuse a number or a tensor that holds NaN or infinity, and anything that is not a number.

    Args:
        name: the user's name of the value, for the message.
        value: a number, or a tensor of numbers.

    Raises:
        TypeError: for something that is not a number, such as a text.
        ValueError: for NaN and infinity.
    """
    if isinstance(value, Tensor):
        if not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise ValueError(f"{name} must be finite: {count} of its {value.numel()} numbers are NaN or infinite")
    elif not hasattr(value, "__float__"):
        raise TypeError(f"{name} is a number, not {value!r}")
    elif not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
