"""`GradientTimesInput`: the gradient with respect to a word, as each place reads it, times the word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from sdprobe.attributions.gradient import Gradient
from sdprobe.core.attribution import WordAsked
from sdprobe.core.run import Run

Sign = Literal["positive", "negative", "both"]


@dataclass(frozen=True, eq=False)
class GradientTimesInput(Gradient):
    """How much a word adds to a score through each place, to first order.

    X_w(p) = sum over sites, heads and tokens of w, mean over steps, of a [ (s q_p · k_w)(g · (v_w − o_p)) + g · v_w ]

    The letters are those of `Gradient`. In the sum, a place of a smaller grid gives each place that it covers its part,
    so that the total is kept. The numbers have a sign; `sdprobe.WordGradients.values` returns them as they are, and
    the map is one of their signs.

    >>> import sdprobe
    >>> method = sdprobe.attributions.GradientTimesInput()
    >>> gradients = sdprobe.WordGradients(["red"])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[gradients], steps=2, seed=0, progress=False)
    >>> method.heat_map(run, "red"), bool((run[gradients].values("red", "product") < 0).any())
    (HeatMap('red', 16×16), True)

    Args:
        of: as for `Gradient`.
        region: as for `Gradient`.
        modules: as for `Gradient`.
        sign: ``"positive"`` for what adds to the score: the change that the word makes, or what lowers a loss;
            ``"negative"`` for what takes from it; ``"both"`` for the absolute value.

    Source: Shrikumar et al. 2016, "Not Just a Black Box: Learning Important Features Through Propagating Activation
    Differences", section 2 (gradient × input). There the input is a picture; here it is as in `Gradient`.
    """

    sign: Sign = "positive"

    def __post_init__(self) -> None:
        if self.sign not in get_args(Sign):
            raise ValueError(f"sign is {', '.join(map(repr, get_args(Sign)))}, not {self.sign!r}")

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        return self.of_sign(self.recorded(run).values(asked.word, "product", asked.image))

    def of_sign(self, signed: Float[Tensor, "*frames h w"]) -> Float[Tensor, "*frames h w"]:
        """Return the values that have the sign asked for, none of them negative."""
        if self.sign == "both":
            return signed.abs()
        return (signed if self.sign == "positive" else -signed).clamp_min(0)
