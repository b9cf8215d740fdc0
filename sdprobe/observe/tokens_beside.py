"""`TokensBeside`: further tokens of the text in one call of a denoiser of joint attention, which nothing else sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform
from sdprobe.core.site import Site

Look = Callable[[Attention, Site, slice], None]


class TokensBeside(Transform):
    """Tokens that see the picture and each other, and that neither the picture nor the prompt sees.

    It is for one call of the denoiser, of `Step.predict` with ``beside``, in which the tokens are the last of the text.

    Args:
        known: which tokens each row has; others have more.
        look: called at every site, with the attention call as it is made, the site, and the range of the tokens.
    """

    kinds = ("joint",)

    def __init__(self, known: Bool[Tensor, "rows tokens"], look: Look) -> None:
        self.known, self.look = known, look

    def attention(self, attn: Attention, site: Site) -> Attention:
        assert site.text is not None  # in joint attention there is one
        count, rows = self.known.shape[1], self.known.to(attn.query.device)
        own = slice(site.text.stop - count, site.text.stop)
        keep = attn.query.new_ones(len(rows), 1, attn.query.shape[2], attn.key.shape[2], dtype=torch.bool)
        keep[:, :, :, own] = False
        keep[:, :, own] = False
        keep[:, :, own, site.image] = True
        keep[:, :, own, own] = rows[:, None, None, :] | torch.eye(count, dtype=torch.bool, device=rows.device)
        made = attn.masked(keep)
        self.look(made, site, own)
        return made
