"""`RandomizeToken`: a random direction in place of a word's token embedding, as a control experiment."""

from __future__ import annotations

import torch

from sdprobe.core.run import Role
from sdprobe.core.text import Text
from sdprobe.transform.word_transform import AtWord, Vectors


class RandomizeToken(AtWord):
    """Replace each token embedding of a word by a random vector of the same norm, before position embeddings are added.

    Only the direction is random, so the effect of a replacement can be compared with that of any vector of this norm.

    >>> import sdprobe
    >>> control = sdprobe.RandomizeToken("circle", seed=0)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[control], steps=3, seed=0, progress=False)

    Args:
        word: the word, or phrase, to replace.
        seed: the seed of the direction; the same seed gives the same direction in every prompt and run.
        occurrence: which occurrence, counted from 0; None for all.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: if no prompt of the run has the word.
    """

    def __init__(self, word: str, seed: int = 0, occurrence: int | None = None, role: Role = "cond") -> None:
        super().__init__(word, occurrence, role)
        self.seed = seed

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(self.seed)).to(own)
        scaled: Vectors = noise * (own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
        return scaled
