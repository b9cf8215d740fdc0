"""`ReweightAttention`: more or less of a word, by a factor on the attention to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.rows import Role
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.transform.attention_edits.chosen_heads import as_heads, chosen_heads, refuse_missing_heads
from sdprobe.transform.attention_edits.word_columns import Columns, Word, WordColumns, as_words, scaled_columns


class ReweightAttention(Transform):
    """Multiply the attention of the picture to some words by a factor, after the softmax: attention re-weighting.

    The attention to the other tokens stays what it is, so that over the tokens it no longer sums to 1. A factor above 1
    asks for more of the word, one below 1 for less, and a negative one for its opposite. One run and one prompt are
    enough. In joint attention it acts where the picture looks at the text.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> hooks = [[], [sdprobe.ReweightAttention({"red": 1.0})], [sdprobe.ReweightAttention({"red": 3.0})]]
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in hooks]
    >>> [bool((runs[0].latents == run.latents).all()) for run in runs]
    [True, True, False]

    Args:
        weights: the factor of each word: a word or phrase, ``"<start>"``, ``"<end>"``, ``"<pad>"``, or a token
            position. Pairs of a word and its factor are read too. Every occurrence counts, in the tokens of every text
            encoder. A token that stands in several of the words gets the product of their factors. The rows of a prompt
            that has none of the words are not changed.
        role: ``"cond"`` for the rows of the prompt, ``"uncond"`` for those of the negative prompt.
        modules: patterns on dotted module names; None for every site with text.
        heads: numbers of attention heads; None for all.

    With the factor 1 for all words nothing is changed, exactly. To limit it to steps or images, use `sdprobe.only`.

    Raises:
        WordNotInPrompt: in a run, for a word that no prompt has; the message lists the prompt's words.
        ValueError: for no words, and for a factor that is not finite; in a run, for a head that no site has.
        TypeError: for a factor that is not a number.

    Source: Hertz et al. 2023, "Prompt-to-Prompt Image Editing with Cross-Attention Control", section 3.2, attention
    re-weighting. There, the attention is that of a source prompt; to have that too, put `ReplaceAttention` or
    `RefineAttention` before this hook.
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        weights: Mapping[Word, float] | Sequence[tuple[Word, float]],
        *,
        role: Role = "cond",
        modules: str | Sequence[str] | None = None,
        heads: Sequence[int] | None = None,
    ) -> None:
        pairs = _pairs(weights)
        # A dictionary or a list, which a file can hold.
        self.weights = dict(pairs) if all(isinstance(word, str) for word, _ in pairs) else [[*pair] for pair in pairs]
        self.role, self.modules, self.heads = role, patterns(modules), as_heads(heads)
        self._columns = WordColumns.of([word for word, _ in pairs], role)
        self._factors = dict(pairs)

    def start(self, run: Run) -> None:
        self._columns.refuse_missing(run)
        refuse_missing_heads(self, run)

    def attention(self, attn: Attention, site: Site) -> Attention:
        if all(factor == 1 for factor in self._factors.values()):
            return attn
        return self._columns.change(attn, site, self._reweighted)

    def _reweighted(self, attn: Attention, columns: Columns, site: Site) -> Attention:
        factors = torch.ones(len(columns), 1, 1, attn.key.shape[2])
        for k, words in enumerate(columns):
            for word, positions in words.items():
                factors[k, ..., positions] *= self._factors[word]
        return scaled_columns(attn, torch.where(chosen_heads(self.heads, site), factors, 1.0), site)


def _pairs(weights: Any) -> list[tuple[Word, float]]:
    given = [*weights.items()] if isinstance(weights, Mapping) else [*weights]
    if any(isinstance(pair, str) or len(pair) != 2 for pair in given):
        raise TypeError(f"weights are words with their factors, as in {{'red': 3.0}}, not {weights!r:.80}")
    found = list(zip(as_words([word for word, _ in given]), (factor for _, factor in given), strict=True))
    for word, factor in found:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            raise TypeError(f"the factor of {word!r} is a number, such as 2.0, not {factor!r:.80}")
        if not math.isfinite(factor):
            raise ValueError(f"the factor of {word!r} is finite, not {factor!r}")
    return found
