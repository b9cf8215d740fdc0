"""`Heads`: the mean attention to a word of chosen heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attribution import Attribution, Word, WordAsked, record_of
from sdprobe.core.compose import Hooks
from sdprobe.core.run import Run
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.word_maps import mean_maps
from sdprobe.plot.resized import at_largest


@dataclass(frozen=True)
class Heads(Attribution):
    """The mean attention to a word over chosen heads, each with equal weight.

    H_w(p) = mean over the chosen (site, head) of the mean over steps and tokens of w of the probability at p, resized
    bilinearly to the largest grid among them

    >>> import sdprobe
    >>> site = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    >>> method = sdprobe.attributions.Heads([(site, 0), (site, 2)])
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[method.hooks()], steps=2, seed=0, progress=False
    ... )
    >>> method.heat_map(run, "circle")
    HeatMap('circle', 16×16)

    Args:
        heads: pairs of a module's name and a head's number, as `sdprobe.experiments.HeadVotes.ranked` gives them, which
            `sdprobe.experiments.head_relevance` returns.

    Source: Park et al. 2025, "Cross-Attention Head Position Patterns Can Align with Human Visual Concepts in
    Text-to-Image Generative Models", section 3. There heads are weighted by their votes; here they are chosen.
    """

    heads: Sequence[tuple[str, int]]

    parts: ClassVar[tuple[str, ...]] = ("occurrence", "role", "step", "encoder")

    def __post_init__(self) -> None:
        given = tuple((str(module), int(number)) for module, number in self.heads)
        if not given:
            raise ValueError("choose heads: pairs of a module's name and a head's number; head_relevance ranks them")
        object.__setattr__(self, "heads", given)

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        modules = tuple(dict.fromkeys(module for module, _ in self.heads))
        return Hooks(AttentionMaps(words, keep=("layer", "head"), modules=modules))

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        maps = record_of(run, AttentionMaps, self)
        columns = maps.columns(asked)
        if not {"layer", "head"} <= maps.sums.apart:
            raise ValueError(
                "chosen heads need layers and heads apart: record with AttentionMaps(keep=('layer', 'head'))"
            )
        found = []
        for module, head in self.heads:
            own = {key: [where] for key, where in columns.items() if key.layer == module}
            if not own or not 0 <= head < min(maps.sums[key].shape[1] for key in own):
                raise ValueError(
                    f"head {head} of {module} was not recorded; recorded: {maps.sums.kept_apart()['layer']}"
                )
            found.append(mean_maps(maps.sums, own, asked.image, head)[0])
        return at_largest(found).mean(0)
