"""`RandomWord`, `Centre`, `RandomField`: maps that know nothing of the word, for a method to be better than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.attributions.mean import Mean
from sdprobe.core.attribution import Attribution, Word, WordAsked
from sdprobe.core.compose import Hooks
from sdprobe.core.run import Run
from sdprobe.experiments.random_field import random_field
from sdprobe.experiments.random_words import random_words
from sdprobe.experiments.seed_of import seed_of
from sdprobe.plot.heatmap import HeatMap


@dataclass(frozen=True)
class RandomWord(Attribution):
    """The mean attention to another word of the prompt, at random.

    >>> import sdprobe
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=["attention-maps"], steps=2, seed=0, progress=False
    ... )
    >>> RandomWord().heat_map(run, "circle")
    HeatMap('circle', 16×16)

    Raises NotInThisCase for a prompt of one word.
    """

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Mean().hooks()  # of every word

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "h w"]:
        prompt = run.prompt_of(asked.image)
        own = prompt.positions(asked.word)
        other = random_words(prompt, own, [len(own)], [seed_of(prompt.text, asked.image)])[0]
        return Mean().attribute(run, replace(asked, word=other))


@dataclass(frozen=True)
class Centre(Attribution):
    """A Gaussian in the middle of the picture: things often are there.

    Args:
        width: its standard deviation, in sides of the picture.
    """

    width: float = 0.25

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks()

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "h w"]:
        run.prompt_of(asked.image).positions(asked.word)
        h, w = max(run.model.grids(run.settings).values(), key=lambda grid: grid[0] * grid[1])
        y, x = ((torch.arange(n) + 0.5) / n - 0.5 for n in (h, w))
        squared = y[:, None].square() + x[None].square()
        return torch.exp(-squared / (2 * self.width**2))


@dataclass(frozen=True)
class RandomField(Attribution):
    """A random map with the power spectrum of the map of `Mean`: as smooth, with its peaks elsewhere."""

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Mean().hooks(words)

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "h w"]:
        seed = [seed_of(f"{run.prompt_of(asked.image).text} {asked.word}", asked.image)]
        return random_field(HeatMap(Mean().attribute(run, asked).cpu()), seed).values


CONTROLS = {"random word": RandomWord(), "centre": Centre(), "random field": RandomField()}
