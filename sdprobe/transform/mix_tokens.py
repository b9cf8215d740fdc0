"""Mix the input embeddings of several words into one."""

from __future__ import annotations

from collections.abc import Mapping

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Role, Text
from sdprobe.transform.word_transform import AtWord, Vectors


class MixTokens(AtWord):
    """Give a word of the prompt a weighted sum of words' token embeddings, before positions are added.

    The weights are taken as they are: of any sign, and of any sum. So this is also the arithmetic of words,
    ``{"king": 1, "man": -1, "woman": 1}``.

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
        weights: a weight for each word. Each is one token, or as many as the word it stands for.
        at: the word, or phrase, of the prompt that is to be the mixture.
        occurrence: which occurrence, 0 the first; None for all of them.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: where no prompt of the run holds the word ``at``.
        ValueError: for an empty mixture, or where the numbers of tokens do not fit.
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
