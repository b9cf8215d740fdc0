"""A control for every swap: a random direction in the place of a word's input embedding."""

from __future__ import annotations

import torch

from sdprobe.core.run import Role, Text
from sdprobe.transform.word_transform import AtWord, Vectors


class RandomizeToken(AtWord):
    """Give each token of a word a random embedding of the length it had, before positions are added.

    The direction alone is random, so what a swap changes can be held against what any vector of that length would.

    >>> import sdprobe
    >>> control = sdprobe.RandomizeToken("circle", seed=0)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[control], steps=3, seed=0, progress=False)

    Args:
        word: the word, or phrase, to replace.
        seed: of the direction; the same seed gives the same direction in every prompt and run.
        occurrence: which occurrence, 0 the first; None for all of them.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: where no prompt of the run holds the word.
    """

    def __init__(self, word: str, seed: int = 0, occurrence: int | None = None, role: Role = "cond") -> None:
        super().__init__(word, occurrence, role)
        self.seed = seed

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(self.seed)).to(own)
        scaled: Vectors = noise * (own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
        return scaled
