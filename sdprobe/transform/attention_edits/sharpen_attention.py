"""`SharpenAttention`: gather the attention to some words at the places where it is highest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.rows import Role
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.transform.attention_edits.chosen_heads import as_heads, chosen_heads, refuse_missing_heads
from sdprobe.transform.attention_edits.word_columns import Columns, Word, WordColumns, as_words


class SharpenAttention(Transform):
    """Raise the map of each word, over the places of the picture, to a power, and keep what it sums to.

    The probability a_qj of the place q for the word's token j becomes a'_qj = a_qj^p · Σ_q a_qj / Σ_q a_qj^p, in each
    row and head. The other tokens share what is left at each place in the proportions that they had, so that attention
    is still a softmax, Σ_j a'_qj = Σ_j a_qj. Where the words would get more than a place has, they get all of it, in
    their proportions; only then does the map sum to less than before. In joint attention it acts where the picture
    looks at the text, and places of the picture are among the others.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> hooks = [[], [sdprobe.SharpenAttention("circle", 1.0)], [sdprobe.SharpenAttention("circle", 2.0)]]
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in hooks]
    >>> [bool((runs[0].latents == run.latents).all()) for run in runs]
    [True, True, False]

    Args:
        words: words or phrases, ``"<start>"``, ``"<end>"``, ``"<pad>"``, or token positions; every occurrence, in the
            tokens of every text encoder. The rows of a prompt that has none of them are not changed.
        power: above 1 sharpens, below 1 spreads, 0 spreads evenly; 1 changes nothing, exactly.
        heads: numbers of attention heads; None for all.
        modules: patterns on dotted module names; None for every site with text.
        role: ``"cond"`` for the rows of the prompt, ``"uncond"`` for those of the negative prompt.

    To limit it to steps or images, use `sdprobe.only`.

    Raises:
        WordNotInPrompt: in a run, for a word that no prompt has; the message lists the prompt's words.
        ValueError: for no words, and for a power that is negative or not finite; in a run, for a head that no
            site has, and for negative probabilities, which have no power.

    Source: this package. It is a temperature of 1/p as in `AttentionTemperature`, over the places that look at a token
    instead of over the tokens that a place looks at.
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        words: Word | Sequence[Word],
        power: float,
        *,
        heads: Sequence[int] | None = None,
        modules: str | Sequence[str] | None = None,
        role: Role = "cond",
    ) -> None:
        if not (math.isfinite(power) and power >= 0):
            raise ValueError(f"a power is 0 or more and finite, not {power!r}")
        self.words = words if isinstance(words, str) else as_words(words)
        self._columns = WordColumns.of(self.words, role)
        self.power, self.heads, self.modules, self.role = power, as_heads(heads), patterns(modules), role

    def start(self, run: Run) -> None:
        self._columns.refuse_missing(run)
        refuse_missing_heads(self, run)

    def attention(self, attn: Attention, site: Site) -> Attention:
        return attn if self.power == 1 else self._columns.change(attn, site, self._sharpened)

    def _sharpened(self, attn: Attention, columns: Columns, site: Site) -> Attention:
        probs = attn.probs()
        if attn.replaced and (probs < 0).any():
            raise ValueError(
                f"{self!r} gets probabilities that another hook has made negative: put it before that hook"
            )
        of_words = torch.zeros(len(columns), 1, 1, probs.shape[-1], dtype=torch.bool)
        for k, words in enumerate(columns):
            of_words[k, ..., [position for positions in words.values() for position in positions]] = True
        own = probs[:, :, site.image]
        new = sharpened(own, of_words.to(probs.device), self.power)
        changed = probs.clone()
        changed[:, :, site.image] = torch.where(chosen_heads(self.heads, site).to(probs.device), new, own)
        return attn.with_probs(changed)


def sharpened(
    probs: Float[Tensor, "rows heads places keys"], of_words: Tensor, power: float
) -> Float[Tensor, "rows heads places keys"]:
    """Return probabilities of which the columns of words are raised to a power over the places.

    >>> import torch
    >>> probs = torch.tensor([[0.2, 0.8], [0.4, 0.6]])[None, None]
    >>> sharpened(probs, torch.tensor([True, False]), 2.0)
    tensor([[[[0.1200, 0.8800],
              [0.4800, 0.5200]]]])

    Args:
        probs: the probabilities.
        of_words: which keys are of words; broadcasts.
        power: the power.
    """
    tiny = torch.finfo(probs.dtype).tiny
    words, others = probs * of_words, probs * ~of_words
    powers = (words / words.amax(2, keepdim=True).clamp(min=tiny)) ** power * of_words  # from 0 to 1: no underflow
    words = powers * (words.sum(2, keepdim=True) / powers.sum(2, keepdim=True).clamp(min=tiny))
    total, asked = probs.sum(-1, keepdim=True), words.sum(-1, keepdim=True)
    words = words * (total / asked.clamp(min=tiny)).clamp(max=1)
    left = (total - words.sum(-1, keepdim=True)).clamp(min=0)
    made = words + others * (left / others.sum(-1, keepdim=True).clamp(min=tiny))
    return made * (total / made.sum(-1, keepdim=True).clamp(min=tiny))  # where there are no others, the words share all
