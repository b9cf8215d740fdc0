"""`OutputSpace`: how alike the outputs of attention are at a place and for a word: ConceptAttention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attribution import Attribution, Word, WordAsked, record_of
from sdprobe.core.compose import Hooks
from sdprobe.core.hook import patterns
from sdprobe.core.run import Run
from sdprobe.observe.concept_outputs import ConceptOutputs


@dataclass(frozen=True)
class OutputSpace(Attribution):
    """How alike the output of attention at a place is to that of a word, among some words.

    O_w(p) = mean over sites and steps of softmax over the words c of ⟨o_p, o_c⟩, taken at w

    Here o_p and o_c are the outputs of the attention, before its last linear layer, with the heads side by side. In
    joint attention the words stand beside the prompt as further tokens, which see the picture and each other, and which
    nothing sees. In cross-attention, which the paper does not treat, o_c is the value of the word.

    A word need not be in the prompt; it is encoded alone, and its token is the mean of its tokens there. Since words
    are compared with each other, two at least are needed, and the map of one depends on the others.

    >>> import sdprobe
    >>> method = sdprobe.attributions.OutputSpace()
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[method.hooks(["circle", "background"])], steps=2, progress=False
    ... )
    >>> method.heat_map(run, "background")
    HeatMap('background', 16×16)

    Args:
        softmax: take the softmax over the words; False for the mean of the products, which have a sign.
        modules: fnmatch patterns on module names; None for the later half of the blocks with two streams, in
            cross-attention for every site (`sdprobe.ConceptOutputs`).

    Differences from the authors' code: it takes the first token of a word in T5, here the mean of all of the word; it
    tells the words' stream of no pooled prompt (Flux), here it is that of the prompt; it uses layers 15 to 18 of Flux,
    here ``modules``. Stable Diffusion 3 without T5 gets the word as CLIP encodes it.

    Source: Helbling et al. 2025, "ConceptAttention: Diffusion Transformers Learn Highly Interpretable Features",
    section 4.
    """

    softmax: bool = True
    modules: Sequence[str] | None = None

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks(ConceptOutputs(words, modules=self.modules))  # type: ignore[arg-type]  # which refuses positions

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        outputs = record_of(run, ConceptOutputs, self)
        if self.modules is not None and patterns(self.modules) != patterns(outputs.modules):
            raise ValueError(
                f"{self!r} is of other modules than what {outputs!r} recorded: give the run {self!r}.hooks(), or leave "
                f"modules= out for those that were recorded"
            )
        return outputs.values(str(asked.word), "share" if self.softmax else "score", asked.image)
