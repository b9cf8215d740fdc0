"""`LayoutGuidance`: guide the objects of a prompt into boxes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.transform.attention_edits.picture_region import Box, box_on, refuse_bad_box
from sdprobe.transform.attention_loss_guidance import AttentionGuidance, CrossAttention, Grid, Word
from sdprobe.transform.guidances.guidance import Scale


class LayoutGuidance(AttentionGuidance):
    """Guide x_t, in the early steps, until words get attention from inside their boxes only.

    The loss of a word, at each head of each site, is (1 − attention inside the box / attention anywhere)². It is
    averaged over heads, sites and words.

    >>> import sdprobe
    >>> layout = sdprobe.LayoutGuidance({"circle": (0.5, 0.5, 1.0, 1.0)})
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[layout], steps=5, seed=0, progress=False)
    >>> run[layout].losses.shape
    torch.Size([1, 1])

    Args:
        boxes: by word, its box (left, top, right, bottom) as fractions of the image from 0 to 1; (0, 0) is the upper
            left corner. An image position that is partly in the box counts partly.
        scale: the strength: one number, one for each step, or a function of the `Step`. 0 only records.
        stop: the first step that is not guided; None is a fifth of the steps, as the paper's 10 of 50.
        repeats: the maximum number of updates in a step.
        enough: the loss at which no further update is made.
        grids: use only sites of these grids, ``(h, w)`` or a number for a square one. None is the one closest to 16×16,
            the paper's for Stable Diffusion at 512 pixels, as coarser ones locate an object poorly: on the embedded
            model they put 0.4 of a circle into its box, and 16×16 puts 0.8 into it.

    For ``words`` and the attributes of a run, see `AttentionGuidance`.

    Raises:
        ValueError: for an invalid box.

    Source: Chen et al. 2024, "Training-Free Layout Control with Cross-Attention Guidance", backward guidance, eq. 2 to
    4. The paper also uses the middle block.
    """

    share: ClassVar[float] = 0.2

    def __init__(
        self,
        boxes: Mapping[Word, Box],
        scale: Scale = 30.0,
        *,
        stop: int | None = None,
        repeats: int = 5,
        enough: float = 0.2,
        grids: Collection[int | Grid] | None = None,
    ) -> None:
        super().__init__(tuple(boxes), scale, stop=stop, repeats=repeats, enough=enough, grids=grids)
        for word, box in boxes.items():
            refuse_bad_box(box, f"box of {word!r}")
        self.boxes = dict(boxes)

    def usual_grid(self, grids: Sequence[Grid]) -> Grid:
        return min(grids, key=lambda grid: abs(math.log(math.prod(grid) / 16**2)))

    def loss(self, looks: CrossAttention) -> Float[Tensor, ""] | None:
        found = []
        for word, box in self.boxes.items():
            for positions in looks.tokens_of(word):
                for site in looks.sites:
                    seen = site[..., list(positions)].sum(-1)
                    inside = (seen * inside_of(box, site).to(seen, non_blocking=True)).sum((1, 2)) / seen.sum((1, 2))
                    found.append((1 - inside).square().mean())
        return torch.stack(found).mean() if found else None


def inside_of(box: Box, site: Float[Tensor, "heads h w tokens"]) -> Float[Tensor, "h w"]:
    """Return the fraction, from 0 to 1, of each position of a site's grid that is in a box."""
    return box_on(box, (site.shape[1], site.shape[2]))
