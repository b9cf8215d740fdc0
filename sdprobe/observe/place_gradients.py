"""Gradients with respect to a word as each place reads it, from those with respect to what attention gives there.

Place p reads the word w through its key k and value v. Were there a copy of these for every place, then with
g = ∂S/∂o_p, the gradient of a score with respect to the attention output of one head there,

    ∂S/∂v(p) = a g        ∂S/∂k(p) = a (g · (v − o_p)) s q_p

where a is the probability with which p attends to w, s the scale of the scores and q_p the query. If another hook has
replaced the probabilities, they do not depend on the key.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.observe.attention_leaves import Leaf, Move, Positions, of_row


class Parts(NamedTuple):
    """What the gradients at the places of one site, of one row and word, are made of.

    Attributes:
        probs: a, the probability of each of the word's tokens.
        along: g · (v − o), by how much the score grows with the token's share; 0 where the key has no effect.
        query: s q.
        gradient: g.
    """

    probs: Float[Tensor, "heads places tokens"]
    along: Float[Tensor, "heads places tokens"]
    query: Float[Tensor, "heads places width"]
    gradient: Float[Tensor, "heads places width_v"]

    def norm(self) -> Float[Tensor, " places"]:
        """Return the norm of the gradient over key and value of all tokens, as the mean over heads."""
        of_key = self.along * self.query.norm(dim=-1, keepdim=True)
        of_value = self.gradient.norm(dim=-1, keepdim=True)
        found: Tensor = (self.probs * torch.hypot(of_key, of_value.expand_as(of_key))).norm(dim=-1).mean(0)
        return found

    def times(
        self, key: Float[Tensor, "heads tokens width"], value: Float[Tensor, "heads tokens width_v"]
    ) -> Float[Tensor, " places"]:
        """Return the gradient times a key and a value, summed over heads and tokens."""
        by_key = self.along * (self.query @ key.mT)
        return (self.probs * (by_key + self.gradient @ value.mT)).sum((0, 2))


@torch.no_grad()
def parts_at(leaf: Leaf, gradient: Shaped[Tensor, "rows heads queries width"], row: int, tokens: list[int]) -> Parts:
    """Return the parts of the gradients at the places of a site, for one row and the positions of a word there."""
    attn, image = leaf.attn, leaf.site.image
    own = gradient[row][:, image].float()
    value = of_row(attn.value, attn, row, tokens)
    out = attn.output()[row][:, image].detach().float()
    along = own @ value.mT - (own * out).sum(-1, keepdim=True)
    if row in attn.replaced:
        along = torch.zeros_like(along)
    probs = attn.probs(rows=[row], queries=image, tokens=tokens)[0].float()
    return Parts(probs, along, attn.query[row][:, image].float() * attn.scale, own)


def gradients_at(
    leaf: Leaf, gradient: Shaped[Tensor, "rows heads queries width"], word: Positions
) -> dict[int, tuple[Float[Tensor, " places"], Float[Tensor, " places"]]]:
    """Return for each row that has a word the norm of its gradient, and gradient times input, at every place."""
    found = {}
    for row, positions in word.items():
        tokens = leaf.site.tokens(positions)
        parts = parts_at(leaf, gradient, row, tokens)
        key, value = (of_row(x, leaf.attn, row, tokens) for x in (leaf.attn.key, leaf.attn.value))
        found[row] = (parts.norm(), parts.times(key, value))
    return found


def slopes_at(
    leaf: Leaf, gradient: Shaped[Tensor, "rows heads queries width"], move: Move
) -> dict[int, Float[Tensor, " places"]]:
    """Return for each row how fast the score grows by each place, as the word moves from the baseline to itself."""
    return {
        row: parts_at(leaf, gradient, row, leaf.site.tokens(positions)).times(*leaf.moved_by(move, row))
        for row, positions in move.tokens.items()
    }
