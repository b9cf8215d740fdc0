"""`Gradient`: the norm of the gradient with respect to a word, as each place reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attribution import Attribution, Word, WordAsked, record_of
from sdprobe.core.compose import Hooks
from sdprobe.core.hook import patterns
from sdprobe.core.run import Run
from sdprobe.observe.word_gradients import WordGradients
from sdprobe.observe.word_scores import Loss


@dataclass(frozen=True, eq=False)
class Gradient(Attribution):
    """How strongly a score depends on the word, as a place reads it.

    G_w(p) = mean over sites, heads and steps of ‖∂S/∂(k_w, v_w)(p)‖, with ∂S/∂v_w(p) = a g and ∂S/∂k_w(p) =
    a (g · (v_w − o_p)) s q_p

    Here each place p has its own copy of the word's key and value (k_w, v_w); a is its probability of attending to
    the word, o_p what its attention gives, g = ∂S/∂o_p, and s q_p its query times the scale. Of a word of several
    tokens, the norm is over all of them. Sites of smaller grids are resized to the largest one, bilinearly.

    >>> import sdprobe
    >>> method = sdprobe.attributions.Gradient()
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[method.hooks(["red"])], steps=2, seed=0, progress=False
    ... )
    >>> method.heat_map(run, "red")
    HeatMap('red', 16×16)

    Args:
        of: a loss of the predicted picture, as of `sdprobe.losses`; the score is its negative. None for the change of
            the noise prediction that the word makes (`sdprobe.WordGradients`).
        region: a mask over the picture: only the change of the noise there counts.
        modules: fnmatch patterns on module names; None for every site of attention to the text.

    Differences from the paper: there the score is a class's and the input a picture. A text is one input of all
    places; the copy for each place is what gives it a map.

    Source: Simonyan et al. 2014, "Deep Inside Convolutional Networks: Visualising Image Classification Models and
    Saliency Maps", section 3.
    """

    of: Loss | None = None
    region: Any = field(default=None, repr=False)
    modules: Sequence[str] | None = None

    each_word_costs: ClassVar[bool] = True

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks(WordGradients(words, of=self.of, region=self.region, modules=self.modules))

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        return self.recorded(run).values(asked.word, "norm", asked.image)

    def recorded(self, run: Run) -> WordGradients:
        """Return the record of a run. Raises ValueError where it is of another score, or other modules, than asked for.

        Without ``of``, ``region`` and ``modules``, it is whatever was recorded.
        """
        found = record_of(run, WordGradients, self)
        region = None if self.region is None else torch.as_tensor(self.region).tolist()
        if (self.of is not None and found.of is not self.of) or (region is not None and found.region != region):
            raise ValueError(
                f"{self!r} is of another score than what {found!r} recorded: give the run {self!r}.hooks(), or leave "
                f"of= and region= out for the score that was recorded"
            )
        if self.modules is not None and patterns(self.modules) != patterns(found.modules):
            raise ValueError(
                f"{self!r} is of other modules than what {found!r} recorded: give the run {self!r}.hooks(), or leave "
                f"modules= out for those that were recorded"
            )
        return found
