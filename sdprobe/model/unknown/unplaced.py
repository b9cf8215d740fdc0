"""`unplaced`: what is known of the places in a tensor of a network that no family knows: the grid of a map alone."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from sdprobe.model.denoiser.token_layout import Grid
from sdprobe.model.denoiser.token_places import NOWHERE

OF_A_MAP = ("hidden", "skip", "output")


def unplaced(name: str, stream: str, x: Tensor, attention: Collection[str]) -> tuple[Grid | None, slice]:
    """Return the grid of a tensor ``[rows, channels, h, w]`` and the range of its places; of any other, neither.

    Args:
        name: the module's name.
        stream: the tensor's stream.
        x: the tensor.
        attention: the names of the attention modules, within which an axis of four may be that of the heads.
    """
    parts = name.split(".")
    within = any(".".join(parts[:n]) in attention for n in range(1, len(parts)))
    if x.ndim != 4 or within or stream.split(" ")[0] not in OF_A_MAP:
        return None, NOWHERE
    return (int(x.shape[-2]), int(x.shape[-1])), slice(None)
