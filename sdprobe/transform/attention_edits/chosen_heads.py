"""`chosen_heads`: some heads of a site, as a mask over an attention call."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.hook import asks
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site


def chosen_heads(heads: Sequence[int] | None, site: Site) -> Bool[Tensor, "#rows #heads #queries #keys"]:
    """Return which heads of a site are chosen; None chooses all, and a number that the site does not have none."""
    if heads is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool)
    found = torch.zeros(site.heads, dtype=torch.bool)
    found[[head for head in heads if head < site.heads]] = True
    return found[None, :, None, None]


def refuse_missing_heads(hook: Any, run: Run) -> None:
    """Raise ValueError for a head that none of a hook's sites has. Sites of one model may have different numbers."""
    if hook.heads is None:
        return
    kinds = {name: (run.model.attention_kind(module), module) for name, module in run.model.modules.items()}
    counts = [run.model.heads_of(own) for name, (kind, own) in kinds.items() if kind and asks(hook, name, kind)]
    if counts and (beyond := [head for head in hook.heads if not 0 <= head < max(counts)]):
        raise ValueError(
            f"{hook!r}: none of its sites has a head {beyond[0]}; they have up to {max(counts)}, counted from 0"
        )


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
