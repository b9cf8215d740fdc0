"""`head_relevance`: to which concept's words each attention head looks most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from sdprobe.core.run import Run
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.concept_attention_votes import ConceptAttentionVotes, shuffled
from sdprobe.experiments.condition import Condition
from sdprobe.experiments.effects import Effects
from sdprobe.experiments.effects_figure import beside_control
from sdprobe.experiments.experiment import Cases, How, experiment
from sdprobe.experiments.heads_of_model import heads_of
from sdprobe.experiments.parts_of_model import cross_attention_of
from sdprobe.experiments.result import Result
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.seeded_cases import seeded_cases

CONTROL = "labels shuffled"
AXES = ("head", "concept")
Concepts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class HeadRelevance:
    """The one condition of `head_relevance`, as a `Design`: votes for the concepts, and for shuffled ones.

    Args:
        concepts: the words of each concept.
    """

    concepts: Concepts

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return the condition under which votes are counted. It changes nothing in the picture."""
        dealt = shuffled(self.concepts, seed_of(case.prompt, case.seed) % 2**31)
        return {"votes": Condition([ConceptAttentionVotes(self.concepts), ConceptAttentionVotes(dealt)])}

    def result(self) -> type[Result]:
        """Return the class of the result."""
        return Result


@dataclass(frozen=True)
class Votes:
    """The measure of `head_relevance`: the share of votes of each head and concept, also for shuffled labels."""

    concepts: tuple[str, ...]

    def __call__(self, run: Run) -> dict[str, float]:
        counted = [live for _, live in run.records if isinstance(live, ConceptAttentionVotes)]
        return dict(self._shares(counted)) if counted else {}  # the untouched condition has none

    def _shares(self, counted: Sequence[ConceptAttentionVotes]) -> Iterator[tuple[str, float]]:
        for name, votes in zip(("votes", CONTROL), counted, strict=True):
            for module, shares in votes.shares().items():
                for (head, k), share in np.ndenumerate(shares.numpy()):
                    yield "|".join((name, module, str(head), self.concepts[k])), float(share)


@dataclass(frozen=True)
class HeadVotes(Result):
    """The table of `head_relevance`: for each case, head and concept the share of the head's votes over the steps.

    The column ``"condition"`` has the name of the head, ``"measure"`` the concept; ``"module"`` and ``"head"`` are the
    head's. Rows with ``"control"`` are of shuffled labels.
    """

    def relevance(self, control: bool = False) -> Effects:
        """Return the mean share of votes over the cases, head by concept, with intervals of 95 %.

        Args:
            control: those with shuffled labels.
        """
        values: dict[tuple[str, str], list[float]] = {}
        for row in self.rows:
            if row["control"] == control and row["value"] is not None:
                values.setdefault((f"{row['module']} head {row['head']}", row["measure"]), []).append(row["value"])
        cells = {cell: _share(np.array(own, dtype=float)) for cell, own in values.items()}
        return Effects(cells, "share of votes", AXES)

    def ranked(self, concept: str) -> list[tuple[str, int]]:
        """Return the heads as module and number, the most relevant for a concept first: as `head_ablation` takes them.

        Raises ValueError for a concept that there is not.
        """
        if concept not in self.measures:
            raise ValueError(f"there is no concept {concept!r}; the concepts: {', '.join(self.measures)}")
        found = self.relevance()
        rows = sorted(found.rows, key=lambda row: -found[row, concept].value)
        return [(module, int(number)) for module, number in (row.split(" head ") for row in rows)]

    def factors(self, concept: str) -> dict[str, list[float]]:
        """Return a factor for each head, by module: its share of votes, over the mean share; for `sdprobe.ScaleHeads`.

        Over all heads the factors are 1 on average; heads that look at the concept's words more often than others
        are strengthened, the others weakened.

        Raises ValueError for a concept that there is not, and for one that no head ever votes for.
        """
        found, shares = self.relevance(), dict[str, dict[int, float]]()
        for module, number in self.ranked(concept):
            shares.setdefault(module, {})[number] = found[f"{module} head {number}", concept].value
        mean = float(np.mean([share for own in shares.values() for share in own.values()]))
        if not mean:
            raise ValueError(f"no head votes for {concept!r}, so no head is stronger for it than another")
        return {module: [own[number] / mean for number in sorted(own)] for module, own in shares.items()}

    def plot(self) -> Figure:
        """Plot the share of votes of each head and concept, and beside it that with shuffled labels.

        Grey numbers are of cells whose interval includes the share that each concept would have by chance.
        """
        panels = [("share of votes", self.relevance()), (f"control: {CONTROL}", self.relevance(control=True))]
        return beside_control(panels, zero=1 / len(self.measures), title=self.about)


def head_relevance(
    model: Any,
    concepts: Concepts,
    cases: Cases,
    *,
    modules: str | Iterable[str] | None = None,
    seeds: int | Iterable[int] | None = None,
    **how: Unpack[How],
) -> HeadVotes:
    """Count for each attention head, over steps and pictures, which concept's words it looks at most.

    >>> import sdprobe
    >>> concepts = {"colour": ["red", "blue"], "shape": ["circle", "star"]}
    >>> settings = {"seeds": range(2), "steps": 2, "progress": False}
    >>> votes = head_relevance(sdprobe.load(), concepts, "a red circle", modules="mid_block*", **settings)
    >>> found = votes.relevance().values
    >>> found.shape, found.sum(axis=1).tolist()
    ((4, 2), [1.0, 1.0, 1.0, 1.0])

    A head votes once in each step, for the concept whose words get most of its attention (`ConceptAttentionVotes`). The
    share of votes says where a head looks, not what it does: `head_ablation` tests that.

    The control is always there: the same words dealt at random to the concepts, anew for each case.

    Args:
        model: as in `sdprobe.experiments.experiment`.
        concepts: the words of each concept, such as ``{"colour": ["red", "blue"], "shape": ["circle", "star"]}``.
        cases: the prompts, or cases, during which it is counted: many different ones, since a head is told from what it
            looks for in these pictures.
        modules: patterns on the names of modules of cross-attention, or else of joint attention; None for all.
        seeds: the seeds; None for 0 to 11 of each text, and for a `Case` its own.
        how: steps, guidance_scale, folder, executor and others, as in `sdprobe.experiments.experiment`.

    Raises:
        ValueError: for a model whose text has no place for further tokens, for fewer than two concepts, and as
            `ConceptAttentionVotes` and `sdprobe.experiments.experiment` do.

    Source: Park et al. 2025, "Cross-Attention Head Position Patterns Can Align with Human Visual Concepts in
    Text-to-Image Generative Models", section 3.
    """
    own = sampler_of(model).model
    heads = heads_of(own, modules)
    if not cross_attention_of(own):
        own.refuse_beside()
    refuse_unreadable(own, concepts)
    wanted = {head.name for head in heads}
    result = experiment(model, seeded_cases(cases, seeds), HeadRelevance(concepts), Votes(tuple(concepts)), **how)
    rows = [row for row in map(_as_row, result.rows) if "module" not in row or row["condition"] in wanted]
    return HeadVotes(rows, result.cases, f"votes of heads for {', '.join(concepts)}")


def _share(values: Float[np.ndarray, " cases"]) -> Estimate:
    found = mean_with_interval(values, bounded=True)
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))


def refuse_unreadable(model: Any, concepts: Concepts) -> None:
    """Raise an error, before anything is run, for concepts and words that heads cannot vote on."""
    for words in ConceptAttentionVotes(concepts).concepts.values():
        for word in words:
            model.read(word).positions(word)


def _as_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table of heads, of one whose measure's name says all that its columns do."""
    if "error" in row:
        return dict(row)
    _, said = row["measure"].split(".", 1)
    labels, module, head, concept = said.split("|")
    changed = {"condition": f"{module} head {head}", "control": labels == CONTROL, "module": module, "head": int(head)}
    return {**row, **changed, "measure": concept}
