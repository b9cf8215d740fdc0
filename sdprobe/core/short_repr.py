"""Short representations of values for reprs and errors: a few lines at most."""

from __future__ import annotations

import reprlib
from types import FunctionType
from typing import Any

from torch import Tensor

LONGEST = 400  # characters of one value, nested dictionaries included


class _Short(reprlib.Repr):
    """Shows the first entries of a container, the shape of an array, the two ends of a long text."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxstring, self.maxother = 3, 4, 120, 160
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 6

    def repr1(self, x: Any, level: int) -> str:
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            return f"{type(x).__name__}{tuple(x.shape)}"
        if isinstance(x, FunctionType):
            return x.__qualname__.rpartition("<locals>.")[2]
        return super().repr1(x, level)


def short_repr(value: object) -> str:
    """Return the `repr` of a value, shortened.

    >>> import torch
    >>> short_repr({"a": torch.zeros(2, 3), "b": list(range(100))})
    "{'a': Tensor(2, 3), 'b': [0, 1, 2, 3, 4, 5, ...]}"
    >>> len(short_repr({str(k): {str(k): "x" * 1000 for k in range(50)} for k in range(50)})) <= LONGEST
    True
    """
    said = _Short().repr(value)
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 4]} ..."


def said(x: Tensor) -> str:
    """Return a tensor's dtype and shape.

    >>> import torch
    >>> said(torch.zeros(2, 3))
    'float32 [2, 3]'
    """
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
