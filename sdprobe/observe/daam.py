"""DAAM's heat map of a word, from sums over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.plot.heatmap import resize


def daam_map(sums: Mapping[str, Float[Tensor, "heads tokens _ _"]], size: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Return the mean over layers, heads and tokens of sums over the steps, each resized to one size and clamped at 0.

    Args:
        sums: by layer name, at the layer's own grid.
        size: the latents' ``(h, w)``. Sites at an eighth of it and the middle block are left out.

    Raises:
        ValueError: if no layer is left.

    Source: Tang et al. 2023, "What the DAAM: Interpreting Stable Diffusion Using Cross Attention" (ACL), section 2.2.
    """
    kept = [
        own
        for layer, own in sums.items()
        if isqrt(size[0] * size[1] // (own.shape[-2] * own.shape[-1])) != 8 and not layer.startswith("mid")
    ]
    if not kept:
        raise ValueError("DAAM looks at down and up blocks only, and none of their sites was recorded")
    return torch.cat([resize(own, size).clamp_min(0) for own in kept]).mean((0, 1))
