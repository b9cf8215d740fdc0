"""`deletion`: hide a word from a growing share of the picture, where its heat map is highest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from sdprobe.core.given_hooks import Given
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition, Design, Label
from sdprobe.experiments.curve_result import CurveResult
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.measures.picture_change import PictureChange
from sdprobe.experiments.random_field import random_field
from sdprobe.experiments.random_words import random_words
from sdprobe.experiments.result import Result
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.untouched_run import untouched_run
from sdprobe.plot.heatmap import HeatMap
from sdprobe.transform.attention_edits.hide_tokens import HideTokens

OWN = "hottest first"
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class Deletion(Design):
    """The conditions of `deletion`.

    Args:
        word: the word.
        other: the word of the other map; None for one at random.
        shares: of the places.
    """

    word: str
    other: str | None = None
    shares: Sequence[float] = SHARES

    kind: ClassVar[type[CurveResult]] = CurveResult

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return for each order and each share a condition; all orders but the map's own are controls.

        Raises `WordNotInPrompt` for a word that the case's prompt does not have.
        """
        word = case.fill(self.word)
        runner.read().positions(word)
        found = {}
        for order, make in self._orders(case, runner).items():
            for share in self.shares:
                labels: dict[str, Label] = {"order": order, "share": float(share)}
                found[f"{order}, {share:g}"] = Condition(self._hooks(word, make, share), order != OWN, labels)
        return found

    def result(self) -> type[Result]:
        return self.kind

    def hidden(self, word: str, heat: HeatMap, share: float) -> HideTokens:
        """Return the word hidden in a share of places, in the order of a map."""
        return HideTokens(word, order=heat.values, share=share)

    def _hooks(self, word: str, make: Callable[[], HeatMap], share: float) -> Callable[[], Given]:
        return lambda: [self.hidden(word, make(), share)]

    def _orders(self, case: Case, runner: CaseRunner) -> dict[str, Callable[[], HeatMap]]:
        """Return how to make the map of each order, whose highest places come first."""

        def own() -> HeatMap:
            return untouched_run(runner).heat_map(case.fill(self.word))

        def coldest() -> HeatMap:
            return HeatMap(-own().values)

        def other() -> HeatMap:
            return untouched_run(runner).heat_map(self._other(case, runner))

        return {
            OWN: own,
            "coldest first": coldest,
            "another word's map": other,
            "a random field": lambda: random_field(own(), [seed_of(case.prompt, case.seed)]),
        }

    def _other(self, case: Case, runner: CaseRunner) -> str:
        if self.other is not None:
            if (other := case.fill(self.other)) == case.fill(self.word):
                raise ValueError(f"the map of another word is a control, and {other!r} is the word itself")
            return other
        prompt = runner.read()
        own = prompt.positions(case.fill(self.word))
        return random_words(prompt, own, [len(own)], [seed_of(case.prompt, case.seed)])[0]


def deletion(
    model: Any,
    cases: Cases,
    word: str,
    *,
    other: str | None = None,
    shares: Sequence[float] = SHARES,
    measures: Measures | None = None,
    **how: Unpack[How],
) -> CurveResult:
    """Hide a word from growing shares of the picture, in the order of its heat map, and measure what is lost.

    If the map shows where the word matters, hiding it where the map is highest costs most at a small share. The same
    share of every grid is hidden; of a video the share of all places of all frames. The map is that of an untouched run
    of the case, the mean over sites, heads and steps.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> case = experiments.Case("a red circle left of a blue square", words={"shape": "circle"})
    >>> def mean(run):
    ...     return run.latents.mean()
    >>> result = deletion(
    ...     sdprobe.load(), case, "{shape}", shares=[0.2], measures=mean, steps=1, progress=False
    ... )
    >>> result.orders
    ('hottest first', 'coldest first', "another word's map", 'a random field')
    >>> shares, means = result.curve("coldest first", "mean")
    >>> shares, len(means)
    ((0.0, 0.2), 2)

    Controls, always: the coldest places first; the order of another word's map; and that of a random field with the
    power spectrum of the map (`random_field`), as smooth and with as large patches, elsewhere.

    Args:
        model: as in `experiment`, and so are the cases and ``how``.
        word: a word or phrase of each prompt; ``"{colour}"`` is the case's own word.
        other: the word of the other map; None for another word of the prompt, at random.
        shares: of the places, from 0 to 1.
        measures: as in `experiment`; None for `PictureChange`.

    Raises:
        WordNotInPrompt: for a word that a case's prompt does not have.
        ValueError: for shares that are not growing from 0 to 1, and for 0 itself, which is the untouched condition.

    Source: Petsiuk et al. 2018, "RISE", section 4.2 (deletion and insertion of pixels, for a classifier); here of what
    the places can look at.
    """
    design = Deletion(word, other, checked_shares(shares, CurveResult.untouched_share))
    return curves(model, cases, design, measures, how)


def curves(model: Any, cases: Cases, design: Deletion, measures: Measures | None, how: How) -> CurveResult:
    """Run a design of curves."""
    found = experiment(model, cases, design, PictureChange() if measures is None else measures, **how)
    assert isinstance(found, CurveResult)
    return found


def checked_shares(shares: Sequence[float], untouched: float) -> tuple[float, ...]:
    """Return shares as they are used.

    Raises ValueError for those that are not growing from 0 to 1, and for that of the untouched condition.
    """
    found = tuple(map(float, shares))
    if not found or not all(0 <= share <= 1 for share in found) or list(found) != sorted(set(found)):
        raise ValueError(f"shares are growing numbers from 0 to 1, such as {SHARES}, not {shares!r}")
    if len({f"{share:g}" for share in found}) < len(found):
        raise ValueError(f"two shares are the same to six digits, and so would be their names: {shares!r}")
    if untouched in found:
        raise ValueError(
            f"the share {untouched:g} is the untouched condition, which every experiment has: leave it out"
        )
    return found
