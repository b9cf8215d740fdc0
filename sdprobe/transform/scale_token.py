"""Make a word's input embedding longer or shorter."""

from __future__ import annotations

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Role, Text
from sdprobe.transform.word_transform import AtWord, Vectors


class ScaleToken(AtWord):
    """Multiply the token embedding of a word by a number, before positions are added.

    >>> import sdprobe
    >>> faint = sdprobe.ScaleToken("red", 0.5)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[faint], steps=3, seed=0, progress=False)

    Args:
        word: the word, or phrase, whose tokens are scaled.
        factor: 1 is the identity; 0 leaves the position alone; a negative one turns the embedding around.
        occurrence: which occurrence, 0 the first; None for all of them.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: where no prompt of the run holds the word.
    """

    def __init__(self, word: str, factor: float, occurrence: int | None = None, role: Role = "cond") -> None:
        super().__init__(word, occurrence, role)
        refuse_not_finite("factor", factor)
        self.factor = factor

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        return own * self.factor
