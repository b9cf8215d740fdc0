"""`chosen_heads`: some heads of a site, as a mask over an attention call."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site


def chosen_heads(heads: Sequence[int] | None, site: Site) -> Bool[Tensor, "#rows #heads #queries #keys"]:
    """Return which heads of a site are chosen; None chooses all.

    Raises ValueError for a head that the site does not have.
    """
    if heads is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool)
    if beyond := [head for head in heads if not 0 <= head < site.heads]:
        raise ValueError(f"{site.name} has {site.heads} heads, counted from 0, and no number {beyond[0]}")
    found = torch.zeros(site.heads, dtype=torch.bool)
    found[list(heads)] = True
    return found[None, :, None, None]


def as_heads(heads: Any) -> list[int] | None:
    """Return numbers of heads as a list, which a file can hold; None for all.

    >>> as_heads(range(2))
    [0, 1]

    Raises TypeError for anything else, and ValueError for none.
    """
    if heads is None:
        return None
    try:
        found = [operator.index(head) for head in heads]
    except TypeError:
        raise TypeError(f"heads are whole numbers such as [0, 3], not {short_repr(heads)}") from None
    if not found:
        raise ValueError("heads=[] chooses nothing: leave it out for all heads")
    return found
