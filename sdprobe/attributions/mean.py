"""`Mean`: the mean attention to a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attribution import PARTS, Attribution, Spelt, Word, WordAsked, record_of, spelt
from sdprobe.core.compose import Hooks
from sdprobe.core.picture_of import picture_of
from sdprobe.core.run import Run
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.word_maps import maps_of_words
from sdprobe.plot.heatmap import HeatMap


@dataclass(frozen=True)
class Mean(Attribution):
    """The mean probability with which a place attends to a word, over sites, heads, steps and the word's tokens.

    Sites of smaller grids are resized to the largest one recorded, bilinearly.

    M_w(p) = mean over sites s, heads h, steps t and tokens k of w of softmax(Q_s K_sᵀ / √d)[h, p, k]

    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=2, seed=0, progress=False)
    >>> run[maps].heat_map("circle", method="mean")
    HeatMap('circle', 16×16)

    Source: Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3 (the averaged
    cross-attention maps of figure 4). There only sites of one grid are averaged.
    """

    parts: ClassVar[tuple[str, ...]] = PARTS

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks(AttentionMaps(words))

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        return self._of_words(run, [asked])[0]

    def heat_maps(self, run: Run, words: Sequence[Spelt], image: int = 0, **parts: Any) -> dict[Spelt, HeatMap]:
        asked = [self.asked(word, image, **parts) for word in words]
        picture = picture_of(run, image)
        found = zip(words, asked, self._of_words(run, asked), strict=True)
        return {word: HeatMap(values, spelt(run, own), picture) for word, own, values in found}

    def _of_words(self, run: Run, asked: Sequence[WordAsked]) -> list[Float[Tensor, "*frames h w"]]:
        """The maps of all words at once: so every sum is read once."""
        maps = record_of(run, AttentionMaps, self)
        columns = {str(k): maps.columns(own) for k, own in enumerate(asked)}
        if not columns:
            return []
        found = maps_of_words(maps.sums, columns, asked[0].image, asked[0].head, self._daam_size(maps))
        return list(found.values())

    def _daam_size(self, maps: AttentionMaps) -> tuple[int, int] | None:
        return None
