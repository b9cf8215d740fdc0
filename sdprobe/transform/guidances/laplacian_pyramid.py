"""`laplacian_pyramid`: latents as a sum of details, each on a grid half as fine as the one before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

Latents = Shaped[Tensor, "images channels *size"]

BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
"""The weights of the blur, divided by their sum."""


def laplacian_pyramid(x: Latents, levels: int) -> list[Latents]:
    """Return the levels of a picture, from the finest to the coarsest, which is the picture itself, smaller.

    A side that cannot be halved so often is made longer, at the bottom or at the right, by its mirror image.

    >>> x = torch.arange(96.0).reshape(1, 1, 8, 12)
    >>> pyramid = laplacian_pyramid(x, 2)
    >>> [list(level.shape) for level in pyramid], torch.allclose(from_pyramid(pyramid, 8, 12), x)
    ([[1, 1, 8, 12], [1, 1, 4, 6]], True)

    Args:
        x: latents or pictures; of videos each frame by itself.
        levels: how many; 1 is the picture alone.

    Raises:
        ValueError: if the coarsest level has less than three places in a row, which the blur needs.

    Source: Burt & Adelson 1983, "The Laplacian Pyramid as a Compact Image Code". Sizes and borders are those of
    `build_laplacian_pyramid` of kornia, which lengthens a side that it cannot halve to the next power of two.
    """
    if x.ndim == 5:
        return [_joined(level, x.shape[2]) for level in laplacian_pyramid(_by_frame(x), levels)]
    h, w = x.shape[-2:]
    step = 2 ** (levels - 1)
    if levels > 1 and min(-(-h // step), -(-w // step)) < 3:
        raise ValueError(
            f"latents of {h}×{w} have no {levels} levels: each is half as fine as the one before, and the coarsest "
            f"needs three places each way"
        )
    rest = F.pad(x, (0, -w % step, 0, -h % step), mode="reflect") if h % step or w % step else x
    found = []
    for _ in range(levels - 1):
        coarse = F.interpolate(_blurred(rest), scale_factor=0.5, mode="bilinear")
        found.append(rest - _enlarged(coarse))
        rest = coarse
    return [*found, rest]


def from_pyramid(levels: Sequence[Latents], h: int, w: int) -> Latents:
    """Return the picture of h × w places that has these levels."""
    if levels[0].ndim == 5:
        return _joined(from_pyramid([_by_frame(level) for level in levels], h, w), levels[0].shape[2])
    *finer, x = levels
    for level in reversed(finer):
        x = _enlarged(x) + level
    return x[..., :h, :w]


def _by_frame(x: Latents) -> Latents:
    return x.movedim(2, 1).flatten(0, 1)


def _joined(x: Latents, frames: int) -> Latents:
    videos: Latents = x.unflatten(0, (-1, frames)).movedim(1, 2)
    return videos


def _enlarged(x: Latents) -> Latents:
    return _blurred(F.interpolate(x, scale_factor=2, mode="bilinear"))


def _blurred(x: Latents) -> Latents:
    weights = torch.tensor(BINOMIAL, device=x.device, dtype=x.dtype)
    square = (torch.outer(weights, weights) / weights.sum() ** 2).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), square, groups=x.shape[1])
