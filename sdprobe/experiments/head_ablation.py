"""`head_ablation`: what the picture loses without one attention head, or without several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition
from sdprobe.experiments.effect_matrix import EffectMatrix, as_matrix
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.heads_of_model import Head, Way, ablate, heads_of
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.seeded_cases import seeded_cases

TOGETHER = "together"
HeadSets = Mapping[str, Iterable[tuple[str, int]]]
"""Heads that are ablated together, as module and number, by the name of the set."""


@dataclass(frozen=True)
class HeadAblation:
    """The conditions of `head_ablation`, as a `Design`.

    Args:
        sets: the heads of each condition, by the labels of its row and column.
        pool: all heads, from which those of the controls are drawn.
        way: what takes the place of what a head gives.
    """

    sets: Mapping[tuple[str, str], Sequence[Head]]
    pool: Sequence[Head]
    way: Way = "zero"

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return for each set of heads its ablation, and that of as many others."""
        found = {}
        for control in (False, True):
            for (row, column), heads in self.sets.items():
                chosen = self.others(heads, seed_of(case.prompt, case.seed, row, column)) if control else heads
                name = f"{'control, random heads: ' * control}{row}, {column}"
                labels = {"module": row, "head": column}
                found[name] = Condition(ablate(chosen, self.way), control, labels)
        return found

    def others(self, heads: Sequence[Head], seed: int) -> list[Head]:
        """Return as many heads, drawn at random: of other modules where there are enough, and none of the given.

        Raises ValueError if there are not so many.
        """
        modules = {head.module for head in heads}
        elsewhere = [head for head in self.pool if head.module not in modules]
        free = elsewhere if len(elsewhere) >= len(heads) else [head for head in self.pool if head not in heads]
        if len(free) < len(heads):
            raise ValueError(
                f"the control of {len(heads)} heads are as many others, and of {len(self.pool)} there are {len(free)}: "
                f"ablate fewer together"
            )
        chosen = np.random.default_rng(seed).choice(len(free), len(heads), replace=False)
        return [free[k] for k in sorted(chosen)]

    def result(self) -> type[HeadEffects]:
        """Return the class of the result."""
        return HeadEffects


class HeadEffects(EffectMatrix):
    """The table of `head_ablation`, and the matrix of its effects: differences to untouched, module by head."""

    axes = ("module", "head")
    whole = None
    controlled_by = "as many random heads"


def head_ablation(
    model: Any,
    cases: Cases,
    measures: Measures,
    *,
    modules: str | Iterable[str] | None = None,
    sets: HeadSets | None = None,
    way: Way = "zero",
    seeds: int | Iterable[int] | None = None,
    effect: str | None = None,
    **how: Unpack[How],
) -> HeadEffects:
    """Ablate each head of the attention to the text, one at a time, or sets of heads.

    >>> import sdprobe
    >>> def mean(run):
    ...     return run.latents.mean()
    >>> settings = {"steps": 2, "guidance_scale": 5.0, "progress": False}
    >>> last = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    >>> result = head_ablation(
    ...     sdprobe.load(), "a red circle", mean, sets={"two heads": [(last, 0), (last, 1)]}, seeds=range(2), **settings
    ... )
    >>> result.effect().columns, result.effect()["two heads", "together"].cases, result.conditions
    (('together',), 2, ('untouched', 'two heads, together', 'control, random heads: two heads, together'))

    The effect is the difference of a measure to the untouched run with the same noise. What a head gives is replaced by
    zeros where the heads stand side by side, before the layer that follows (`Ablate`), in the rows of the prompt and of
    the empty prompt. In joint attention a head's output to the picture and to the text are ablated together. A head
    whose ablation changed nothing to the last bit is told: ``"unchanged"`` in the table, ``=`` in the figure.

    A head without an effect may still do something: others may do it too.

    Controls are always there: as many heads drawn at random for each case, of other modules where there are enough.

    Args:
        model: as in `sdprobe.experiments.experiment`.
        cases: the prompts, or cases.
        measures: as in `sdprobe.experiments.experiment`.
        modules: patterns on the names of attention modules; None for all of cross-attention, or of joint attention in a
            model without it.
        sets: in place of each head by itself, heads to ablate together, as pairs of module and number; by name.
        way: ``"zero"``; or ``"mean"`` for the mean over all places, which leaves what a head says everywhere.
        seeds: the seeds; None for 0 to 11 of each text, and for a `Case` its own.
        effect: the name of the measure that the matrix shows; None for the first.
        how: steps, guidance_scale, batch, folder, executor and others, as in `sdprobe.experiments.experiment`.

    Raises:
        ValueError: for a pattern that fits no such module, for a head that there is not, and as
            `sdprobe.experiments.experiment` does.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 3.
    """
    own = sampler_of(model).model
    pool, chosen = heads_of(own), heads_of(own, modules)
    single = {(head.module, str(head.number)): (head,) for head in chosen}
    asked = single if sets is None else {(str(name), TOGETHER): _found(heads, pool) for name, heads in sets.items()}
    result = experiment(model, seeded_cases(cases, seeds), HeadAblation(asked, pool, way), measures, **how)
    return as_matrix(result, HeadEffects, effect, f"heads ablated ({way})")


def _found(heads: Iterable[tuple[str, int]], pool: Sequence[Head]) -> tuple[Head, ...]:
    by_name = {(head.module, head.number): head for head in pool}
    found = []
    for module, number in heads:
        if (module, number) not in by_name:
            counts = {head.module: head.number + 1 for head in pool}
            said = ", ".join(f"{name} ({count} heads)" for name, count in counts.items())
            raise ValueError(f"there is no head {number!r} of {module!r}; there are {said}")
        found.append(by_name[module, number])
    if not found:
        raise ValueError("a set of heads has at least one, as a pair of module and number")
    return tuple(found)
