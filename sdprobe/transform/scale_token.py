"""`ScaleToken`: make a word's token embedding larger or smaller."""

from __future__ import annotations

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Role
from sdprobe.core.text import Text
from sdprobe.transform.word_transform import AtWord, Vectors


class ScaleToken(AtWord):
    """Multiply the token embedding of a word by a number, before position embeddings are added.

    >>> import sdprobe
    >>> faint = sdprobe.ScaleToken("red", 0.5)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[faint], steps=3, seed=0, progress=False)

    Args:
        word: the word, or phrase, whose tokens are scaled.
        factor: 1 is the identity; 0 leaves only the position embedding; a negative number reverses the embedding.
        occurrence: which occurrence, counted from 0; None for all.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: if no prompt of the run has the word.
    """

    def __init__(self, word: str, factor: float, occurrence: int | None = None, role: Role = "cond") -> None:
        super().__init__(word, occurrence, role)
        refuse_not_finite("factor", factor)
        self.factor = factor

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        return own * self.factor
