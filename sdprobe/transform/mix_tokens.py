"""`MixTokens`: a weighted sum of several words' token embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Role
from sdprobe.core.text import Text
from sdprobe.transform.word_transform import AtWord, Vectors


class MixTokens(AtWord):
    """Replace a word's token embedding by a weighted sum of other words', before position embeddings are added.

    The weights may have any sign and any sum, so word arithmetic is possible: ``{"king": 1, "man": -1, "woman": 1}``.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> mix = sdprobe.MixTokens({"circle": 0.5, "square": 0.5}, at="circle")
    >>> run = sdprobe.sample(model, "a red circle", hooks=[mix], steps=3, seed=0, progress=False)
    >>> alone = sdprobe.MixTokens({"square": 1.0}, at="circle")
    >>> mixed = sdprobe.sample(model, "a red circle", hooks=[alone], steps=3, seed=0, progress=False)
    >>> written = sdprobe.sample(model, "a red square", steps=3, seed=0, progress=False)
    >>> bool((mixed.latents == written.latents).all())
    True

    Args:
        weights: a weight for each word. Each word has one token, or as many as the word it replaces.
        at: the word or phrase of the prompt to replace.
        occurrence: which occurrence, counted from 0; None for all.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: if no prompt of the run has the word ``at``.
        ValueError: for an empty mixture, or if the numbers of tokens do not fit.
    """

    def __init__(
        self, weights: Mapping[str, float], at: str, occurrence: int | None = None, role: Role = "cond"
    ) -> None:
        super().__init__(at, occurrence, role)
        if not weights:
            raise ValueError("a mixture needs at least one word with its weight, such as {'circle': 0.5, 'star': 0.5}")
        for word, weight in weights.items():
            refuse_not_finite(f"the weight of {word!r}", weight)
        self.weights, self.at = dict(weights), at

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        first, *others = (
            weight * self.fitting(text.lookup(word), own, repr(word)) for word, weight in self.weights.items()
        )
        return sum(others, start=first)
