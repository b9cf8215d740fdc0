"""`Integrated`: integrated gradients of a word, from its absence to itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sdprobe.attributions.gradient_x_input import GradientTimesInput
from sdprobe.core.attribution import Word, WordAsked
from sdprobe.core.compose import Hooks
from sdprobe.core.run import Run
from sdprobe.observe.word_gradients import WordGradients


@dataclass(frozen=True, eq=False)
class Integrated(GradientTimesInput):
    """How much a word adds to a score through each place, on the way from a baseline to the word.

    I_w(p) = sum over sites, heads and tokens of w, mean over steps, of
    (1/m) Σ_α a(α) [ (s q_p · Δk)(g(α) · (v_w(α) − o_p(α))) + g(α) · Δv ] at α = (j + ½) / m, j = 0 … m − 1

    At α the word's key and value are k_b + α Δk and v_b + α Δv, from those of the baseline to the word's own; the other
    letters are those of `Gradient`. Keys and values are linear in the embeddings, so this is the straight path between
    the embeddings of baseline and word. Over all places, I_w adds up to the change of the score along the path, but for
    the error of m points: `sdprobe.WordGradients.total` returns both.

    >>> import sdprobe
    >>> method = sdprobe.attributions.Integrated(points=8)
    >>> gradients = sdprobe.WordGradients(["red"], path=8)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[gradients], steps=2, seed=0, progress=False)
    >>> method.heat_map(run, "red")
    HeatMap('red', 16×16)
    >>> whole, change = run[gradients].total("red")
    >>> abs(whole - change) < 0.01 * abs(change)
    True

    Args:
        of: as for `Gradient`.
        region: as for `Gradient`.
        modules: as for `Gradient`.
        sign: as for `GradientTimesInput`.
        points: m. Each point costs a call of the denoiser with gradients, for every word.
        baseline: what stands for the word's absence: a word of the prompt whose last token it is, such as ``"<end>"``;
            None for a key and a value of zeros.

    In joint attention (Stable Diffusion 3, Flux) the text's keys depend on the picture, so the sum would not be the
    change of the score: the hook refuses such a model. In PixArt the path is straight after the projection of the
    captions, which is not linear.

    Differences from the paper: there the baseline of a text is an embedding of zeros, and the input is the whole text,
    whose gradient has no places; here it is one word, as each place reads it.

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", sections 3 and 5.
    """

    points: int = 16
    baseline: Word | None = "<end>"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 1:
            raise ValueError(f"points is a number, 1 or more, not {self.points}")

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        asked = {"of": self.of, "region": self.region, "modules": self.modules}
        return Hooks(WordGradients(words, path=self.points, baseline=self.baseline, **asked))

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        return self.of_sign(self.recorded(run).values(asked.word, "path", asked.image))

    def recorded(self, run: Run) -> WordGradients:
        """Return the record of a run. Raises ValueError as for `Gradient`, and for a path from another baseline."""
        found = super().recorded(run)
        if found.path and found.baseline != self.baseline:
            raise ValueError(
                f"{self!r} begins at {self.baseline!r}, and what {found!r} recorded at {found.baseline!r}: give the "
                f"run {self!r}.hooks(), or ask with baseline={found.baseline!r}"
            )
        return found
