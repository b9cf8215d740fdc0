"""Move a word's input embedding along a direction."""

from __future__ import annotations

from torch import Tensor

from sdprobe.run import Role, Text
from sdprobe.transform.at_word import AtWord, Vectors


class AddVector(AtWord):
    """Add a vector to the token embedding of a word, before positions are added.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> red, blue = sdprobe.embed(model, ["red", "blue"]).token[:, 1]
    >>> bluer = sdprobe.AddVector("red", blue - red, scale=0.5)
    >>> run = sdprobe.sample(model, "a red circle", hooks=[bluer], steps=3, seed=0, progress=False)

    Args:
        word: the word, or phrase, whose tokens are moved.
        vector: ``[width]`` for all of its tokens, or ``[tokens, width]``.
        scale: what the vector is multiplied by.
        occurrence: which occurrence, 0 the first; None for all of them.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: where no prompt of the run holds the word.
        ValueError: where the vector does not fit the word's tokens.
    """

    def __init__(
        self, word: str, vector: Tensor, scale: float = 1.0, occurrence: int | None = None, role: Role = "cond"
    ) -> None:
        super().__init__(word, occurrence, role)
        self.vector, self.scale = vector, scale

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        shift = self.vector.unsqueeze(0) if self.vector.ndim == 1 else self.vector
        return own + self.scale * self.fitting(shift, own, "the vector")
