"""`insertion`: show a word to a growing share of the picture only, where its heat map is highest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from sdprobe.experiments.curve_result import CurveResult
from sdprobe.experiments.deletion import Deletion, checked_shares, curves
from sdprobe.experiments.experiment import Cases, How, Measures
from sdprobe.plot.heatmap import HeatMap
from sdprobe.transform.attention_edits.hide_tokens import HideTokens

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7)


class InsertionResult(CurveResult):
    """Curves over the share of places that see the word: where all do, the picture is the untouched one."""

    untouched_share = 1.0
    axis = "share of places that see the word"


@dataclass(frozen=True)
class Insertion(Deletion):
    """The conditions of `insertion`; the arguments are those of `Deletion`."""

    shares: Sequence[float] = SHARES

    kind: ClassVar[type[CurveResult]] = InsertionResult

    def hidden(self, word: str, heat: HeatMap, share: float) -> HideTokens:
        """Return the word hidden everywhere but in a share of places, in the order of a map."""
        return HideTokens(word, order=-heat.values, share=1 - share)


def insertion(
    model: Any,
    cases: Cases,
    word: str,
    *,
    other: str | None = None,
    shares: Sequence[float] = SHARES,
    measures: Measures | None = None,
    **how: Unpack[How],
) -> CurveResult:
    """Hide a word from all but growing shares of the picture, in the order of its heat map, and measure what comes.

    If the map shows where the word matters, the picture comes back while few places see the word. Orders, controls,
    arguments and errors are those of `deletion`.

    >>> import sdprobe
    >>> def mean(run):
    ...     return run.latents.mean()
    >>> prompt = "a red circle left of a blue square"
    >>> result = insertion(sdprobe.load(), prompt, "circle", shares=[0.2], measures=mean, steps=2, progress=False)
    >>> result.curve("hottest first", "mean")[0]
    (0.2, 1.0)

    Source: Petsiuk et al. 2018, "RISE", section 4.2, as in `deletion`.
    """
    return curves(
        model, cases, Insertion(word, other, checked_shares(shares, InsertionResult.untouched_share)), measures, how
    )
