"""`AttentionLeaves`: a further call of the denoiser in which every attention output to the text has a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.attention_call import per_head
from sdprobe.core.hook import Transform
from sdprobe.core.site import Site

Positions = Mapping[int, Sequence[int]]
"""The token positions of a word in each row that has it, by the row's number."""


class Move(NamedTuple):
    """How far the tokens of a word are moved from a baseline to themselves.

    Attributes:
        tokens: their positions, in each row.
        baseline: the position that stands for their absence, in each row; None for zeros.
        share: 0 at the baseline, 1 at themselves.
    """

    tokens: Positions
    baseline: Mapping[int, int] | None
    share: float


@dataclass(frozen=True)
class Leaf:
    """One attention call: zeros that were added to its output, and what the gradient of these is held against.

    Args:
        site: where it was.
        attn: the call.
        zeros: the leaf, ``[rows, heads, queries, width]``.
        own: the key and value of the site before the word was moved.
    """

    site: Site
    attn: Attention
    zeros: Shaped[Tensor, "rows heads queries width"]
    own: tuple[Shaped[Tensor, "rows heads keys width"], Shaped[Tensor, "rows heads keys width_v"]]

    def moved_by(self, move: Move, row: int) -> tuple[Float[Tensor, "heads tokens width"], ...]:
        """Return by how much a word's key and value move from the baseline to itself, in a row."""
        key, value = (of_row(x, self.attn, row, self.site.tokens(move.tokens[row])) for x in self.own)
        if move.baseline is None:
            return key, value
        from_ = [self.site.tokens([move.baseline[row]])[0]]
        return tuple(x - of_row(own, self.attn, row, from_) for x, own in zip((key, value), self.own, strict=True))


class AttentionLeaves(Transform):
    """Adds zeros to the output of every attention to the text: leaves, so that a score has gradients there.

    Args:
        modules: patterns on module names; None for every site with text.
        move: moves the key and value of a word; None leaves them.
    """

    kinds = ("cross", "joint")

    def __init__(self, modules: tuple[str, ...] | None = None, move: Move | None = None) -> None:
        self.modules, self.move = modules, move
        self.seen: list[Leaf] = []

    def attention(self, attn: Attention, site: Site) -> Attention:
        given, attn = attn, attn if self.move is None else moved(attn, site, self.move)
        output = attn.output()
        if not torch.is_grad_enabled():
            return attn
        zeros = torch.zeros_like(output).requires_grad_()
        self.seen.append(Leaf(site, attn, zeros, (given.key, given.value)))
        return attn.with_output(output + zeros)


class HiddenWord(Transform):
    """Keeps the picture from looking at a word, as `sdprobe.HideTokens` does.

    Args:
        tokens: its positions, in each row.
        modules: patterns on module names; None for every site with text.
    """

    kinds = ("cross", "joint")

    def __init__(self, tokens: Positions, modules: tuple[str, ...] | None = None) -> None:
        self.tokens, self.modules = tokens, modules

    def attention(self, attn: Attention, site: Site) -> Attention:
        keep = torch.ones(len(attn.query), 1, attn.query.shape[2], attn.key.shape[2], dtype=torch.bool)
        for row, positions in self.tokens.items():
            columns = torch.zeros(keep.shape[-1], dtype=torch.bool)
            columns[site.tokens(positions)] = True
            keep[row, :, site.image] &= ~columns
        return attn.masked(keep.to(attn.query.device))


def moved(attn: Attention, site: Site, move: Move) -> Attention:
    """Return a call whose keys and values of a word are between those of a baseline and their own."""
    found = []
    for own in (attn.key, attn.value):
        new = own.clone()
        for row, positions in move.tokens.items():
            at = site.tokens(positions)
            base = None if move.baseline is None else own[row][:, site.tokens([move.baseline[row]])]
            new[row, :, at] = own[row][:, at] * move.share if base is None else base.lerp(own[row][:, at], move.share)
        found.append(new)
    return replace(attn, key=found[0], value=found[1], _made={})


def of_row(x: Tensor, attn: Attention, row: int, tokens: Sequence[int]) -> Float[Tensor, "heads tokens width"]:
    """Return the keys or values of some tokens in a row, one for each head of the query, in float32."""
    return per_head(x[row : row + 1], attn.query)[0][:, list(tokens)].detach().float()
