"""Dtypes and devices of torch by their names, as a file or a command line can hold them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def dtype_of(given: torch.dtype | str, among: Sequence[torch.dtype] = FLOATING) -> torch.dtype:
    """Return the dtype that is given itself or by its name.

    >>> dtype_of("float16")
    torch.float16

    Raises ValueError, with the choices, for any other.
    """
    found = next((own for own in among if given in (own, name_of(own), str(own))), None)
    if found is None:
        raise ValueError(f"dtype is one of {', '.join(map(str, among))}, or its name, not {given!r}")
    return found


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype.

    >>> name_of(torch.float16)
    'float16'
    """
    return str(dtype).removeprefix("torch.")


def device_name(given: torch.device | str) -> str:
    """Return the name of a device that is given itself or by its name.

    >>> device_name(torch.device("cuda", 1)), device_name("cpu")
    ('cuda:1', 'cpu')

    Raises ValueError for what is no device of torch, whether this machine has it or not.
    """
    try:
        return str(torch.device(given))
    except (RuntimeError, TypeError):
        raise ValueError(f"a device is 'cpu', 'cuda', 'cuda:1', 'mps' or another of torch, not {given!r}") from None
