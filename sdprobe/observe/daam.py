"""DAAM's heat maps of tokens, from sums over the steps."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.plot.resized import resize


def daam_maps(
    layers: Iterable[tuple[str, Float[Tensor, "heads tokens *frames _ _"]]], size: tuple[int, int]
) -> Float[Tensor, "tokens *frames h w"]:
    """Return the mean over layers and heads of sums over the steps, each resized to one size and clamped at 0.

    Of a video, each frame is resized by itself.

    Resizing is bicubic. On a CPU it is two multiplications by matrices, one for each axis, for one head at a time: that
    is several times faster there than torch's own resizing of so many small maps, and equal but for rounding.

    Args:
        layers: the name of each layer with its sums, at the layer's own grid.
        size: the latents' ``(h, w)``. Sites at an eighth of it and the middle block are left out.

    Raises:
        ValueError: if no layer is left.

    Source: Tang et al. 2023, "What the DAAM: Interpreting Stable Diffusion Using Cross Attention" (ACL), section 2.2.
    """
    total, count = torch.zeros(()), 0
    for layer, own in layers:
        if isqrt(size[0] * size[1] // (own.shape[-2] * own.shape[-1])) == 8 or layer.startswith("mid"):
            continue
        if not count:
            total = own.new_zeros(*own.shape[1:-2], *size)
        if own.shape[1:-2] != total.shape[:-2]:
            raise ValueError(
                f"DAAM's map resizes height and width only, and these sites differ in frames, {own.shape[-3]} and "
                f"{total.shape[-3]}: record those of one number of frames, with modules=(...)"
            )
        if own.device.type == "cpu":
            down, across = _bicubic(own.shape[-2], size[0]), _bicubic(own.shape[-1], size[1])
            for head in own:
                total += (down @ (head @ across.mT)).clamp_min_(0)
        else:  # where a multiplication may be set to less than float32, and torch's resizing is fast
            total += resize(own, size).clamp_min(0).sum(0)
        count += len(own)
    if not count:
        raise ValueError("DAAM looks at down and up blocks only, and none of their sites was recorded")
    return total / count


def _bicubic(size: int, new: int) -> Float[Tensor, "new size"]:
    """Return the matrix that resizes an axis: the resized unit vectors."""
    return resize(torch.eye(size).unsqueeze(-1), (new, 1)).squeeze(-1).mT
