"""`frame_groups`: which frame of a map each frame of a video belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def frame_groups(frames: int, of: int, causal: bool | None = None) -> list[int]:
    """Return the frame of a map that each frame of a video belongs to: the latent frame that it was decoded from.

    A causal autoencoder makes frame 0 of latent frame 0 alone, and the others of the latent frames after it, r each:
    n = 1 + r (t − 1) frames of t latent frames. Any other makes groups of equal size. Which it was follows from n: the
    factor r of an autoencoder is even, or 1, so an odd n has a first frame alone, and an even n has not. CogVideoX's
    makes both: 1 + r (t − 1) frames of an odd number t, and r t of an even one.

    >>> frame_groups(9, 3)
    [0, 1, 1, 1, 1, 2, 2, 2, 2]
    >>> frame_groups(8, 2), frame_groups(9, 3, causal=False)
    ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2])

    Args:
        frames: the number n of frames of the video.
        of: the number t of frames of the map.
        causal: whether the autoencoder is causal in time; None for whether n is odd, and 1 + r (t − 1) with a whole r.

    Raises ValueError for a map with more frames than the video, and with ``causal=True`` for numbers that do not fit.

    Source: Yu et al. 2024, "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation" (ICLR), section 3.2,
    for causal autoencoders of videos.
    """
    if not 0 < of <= frames:
        raise ValueError(f"a map of {of} frames is no map of a video of {frames}: a map has at most as many")
    if of == 1:
        return [0] * frames
    each, left = divmod(frames - 1, of - 1)
    if causal and left:
        raise ValueError(
            f"a causal autoencoder makes 1 + r × {of - 1} frames of {of} latent frames, with a whole r, not {frames}: "
            f"use causal=False for groups of equal size"
        )
    if causal or (causal is None and not left and frames % 2):
        return [0, *(1 + (frame - 1) // each for frame in range(1, frames))]
    return [frame * of // frames for frame in range(frames)]


def shown_frames(groups: Sequence[int]) -> list[int]:
    """Return of each frame of a map the frame of the video that stands for it: the middle one of its group.

    >>> shown_frames([0, 1, 1, 1, 1, 2, 2, 2, 2])
    [0, 2, 6]
    """
    every = [[frame for frame, group in enumerate(groups) if group == own] for own in range(max(groups) + 1)]
    return [own[(len(own) - 1) // 2] for own in every]


def between_frames(values: Float[Tensor, "of h w"], groups: Sequence[int]) -> Float[Tensor, "frames h w"]:
    """Return a map at every frame of a video, linearly interpolated in time between the middles of the groups.

    Frames before the first middle have the first map, and those after the last one the last.

    >>> import torch
    >>> between_frames(torch.tensor([0.0, 1.0]).reshape(2, 1, 1), [0, 0, 1, 1]).flatten()
    tensor([0.0000, 0.2500, 0.7500, 1.0000])
    """
    found = np.asarray(groups)
    middles = [float(np.flatnonzero(found == own).mean()) for own in range(len(values))]
    at = torch.as_tensor(np.interp(np.arange(len(found)), middles, np.arange(len(values)))).to(values)
    before = at.floor().long()
    after = (before + 1).clamp_max(len(values) - 1)
    part = (at - before)[:, None, None]
    return values[before] * (1 - part) + values[after] * part
