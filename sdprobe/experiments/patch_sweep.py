"""`patch_sweep`: which module carries, in which steps, what tells one prompt's picture from another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.activations.source import record_of
from sdprobe.core.given_hooks import Given
from sdprobe.core.limits.only import only
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition
from sdprobe.experiments.effect_matrix import WHOLE, EffectMatrix, as_matrix
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.parts_of_model import GivenParts, Parts, blocks_of, cross_attention_of, named_parts
from sdprobe.experiments.random_vectors import random_record
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.seeded_cases import seeded_cases
from sdprobe.experiments.shown_tokens import refuse_other_length
from sdprobe.experiments.step_windows import GivenWindows, Windows, step_windows, steps_of_run
from sdprobe.observe.activations import Activations
from sdprobe.transform.patch import Patch

Control = Literal["random vectors", "another seed"]


@dataclass(frozen=True)
class PatchSweep:
    """The conditions of `patch_sweep`, as a `Design`.

    Args:
        b: the other prompt; ``"{colour}"`` stands for the case's own word.
        over: patterns on module names, by the name of the part.
        steps: windows of steps, by name.
        control: what the controls put in the place of the activation.
    """

    b: str
    over: Parts
    steps: Windows
    control: Control = "random vectors"

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return the other prompt alone; and each part with each window, patched and as a control."""
        found = {WHOLE: Condition((), prompt=case.fill(self.b))}
        for control in (False, True):
            for part, modules in self.over.items():
                for window, steps in self.steps.items():
                    name = f"{f'control, {self.control}: ' * control}{part}, {window}"
                    hooks = _Patched(self, runner, modules, steps, control)
                    found[name] = Condition(hooks, control, {"module": part, "steps": window})
        return found

    def result(self) -> type[EffectMatrix]:
        """Return the class of the result."""
        return EffectMatrix if self.control == "random vectors" else OtherSeed

    def record(self, runner: CaseRunner) -> ActivationRecord:
        """Return the activations of the run of b, of one run for all conditions."""
        return self._recorded(runner, "the record of b", prompt=runner.case.fill(self.b))

    def record_of_control(self, runner: CaseRunner) -> ActivationRecord:
        """Return what the controls put in place of the activations of b."""
        seed = seed_of(runner.case.prompt, runner.case.seed)
        if self.control == "another seed":
            return self._recorded(runner, "the record of a with another seed", seed=seed % 2**31)
        made: ActivationRecord = runner.once("random record", lambda: random_record(self.record(runner), seed))
        return made

    def _recorded(self, runner: CaseRunner, name: str, **changes: Any) -> ActivationRecord:
        modules = list(dict.fromkeys(pattern for patterns in self.over.values() for pattern in patterns))
        found: ActivationRecord = runner.once(
            name, lambda: record_of(runner.run([Activations(modules, rows="cond")], **changes))
        )
        return found


@dataclass(frozen=True)
class _Patched:
    """Makes the hooks of one condition, once the record that they need is there."""

    sweep: PatchSweep
    runner: CaseRunner
    modules: tuple[str, ...]
    steps: tuple[int, ...]
    control: bool

    def __call__(self) -> Given:
        record = (self.sweep.record_of_control if self.control else self.sweep.record)(self.runner)
        return [only(Patch(record, self.modules), steps=self.steps, rows="cond")]


class OtherSeed(EffectMatrix):
    """The result of a sweep whose controls are activations of the same prompt with another seed."""

    controlled_by = "a with another seed"


def patch_sweep(
    model: Any,
    a: Cases,
    b: str,
    measures: Measures,
    *,
    over: GivenParts | None = None,
    windows: GivenWindows = None,
    seeds: int | Iterable[int] | None = None,
    effect: str | None = None,
    control: Control = "random vectors",
    **how: Unpack[How],
) -> EffectMatrix:
    """Put activations of the run of one prompt into the run of another, module by module and window by window.

    >>> import sdprobe
    >>> import numpy as np
    >>> from sdprobe.shapes import detect
    >>> def blue(run):
    ...     found = detect(np.asarray(run.images[0]))
    ...     return bool(found) and found[0].colour == "blue"
    >>> settings = {"windows": [range(4)], "seeds": range(2), "steps": 4, "guidance_scale": 5.0, "progress": False}
    >>> over = "up_blocks.2.attentions.1"
    >>> result = patch_sweep(sdprobe.load(), "a red circle", "a blue circle", blue, over=over, **settings)
    >>> result.effect()
    share of the way, blue [95 % interval]  all steps
    up_blocks.2.attentions.1                1.00 [0.16, 1.00]
    >>> result.control()["up_blocks.2.attentions.1", "all steps"].value
    0.0

    A case is run with its prompt a, and with b from the same noise. The activations of a module in the run of b, in
    some steps, take the place of those in the run of a, in the rows of the prompt (`Patch`). The condition ``"all of
    b"`` is the run of b itself, so that the effect can be told as a share of the way from a to b (`EffectMatrix`).

    A module with a large effect carries what tells a from b: its activations are enough. One without may still do so,
    together with others. After the last block comes nothing that could undo it, so its effect is an upper bound and
    no finding.

    Controls are always there: at each module and window, random vectors of the norms of b's activations take the
    place of a's. What they bring about comes from any disturbance.

    Args:
        model: as in `sdprobe.experiments.experiment`.
        a: the prompt, or several, or cases.
        b: the other prompt; ``"a {other} circle"`` takes each case's own word.
        measures: by which a and b differ, as in `sdprobe.experiments.experiment`.
        over: patterns on module names, each of which is a row of the matrix; or for each row, by its name, one or
            several that are patched together. None for the blocks of the denoiser and those with attention in them.
        windows: ranges or lists of steps, or these by name; None for all steps and for each quarter.
        seeds: the seeds; None for 0 to 11 of each text, and for a `Case` its own.
        effect: the name of the measure that the matrix shows; None for the first.
        control: ``"random vectors"``; or ``"another seed"``, activations of the run of a with another seed, which takes
            one run more, and shows what foreign activations do that are not b's.
        how: steps, guidance_scale, batch, folder, executor and others, as in `sdprobe.experiments.experiment`.

    Raises:
        ValueError: for a pattern that fits no module, for steps that the run does not have, and as
            `sdprobe.experiments.experiment` does; for prompts of different numbers of tokens where text and picture
            are in one attention without padding (Z-Image, Qwen-Image, Lumina 2, Krea 2, HunyuanVideo).

    Source: Vig et al. 2020, "Investigating Gender Bias in Language Models Using Causal Mediation Analysis", section 3;
    Zhang and Nanda 2024, "Towards Best Practices of Activation Patching in Language Models", section 2.
    """
    own = sampler_of(model)
    parts = blocks_of(own.model) if over is None else named_parts(over, own.model)
    sweep = PatchSweep(b, parts, step_windows(windows, steps_of_run(own.model, how)), control)
    cases = seeded_cases(a, seeds)
    if own.model.hides_padding and not cross_attention_of(own.model):
        for case in cases:
            refuse_other_length(own.model, case.prompt, case.fill(b))
    result = experiment(model, cases, sweep, measures, **how)
    return as_matrix(result, EffectMatrix, effect, f"activations of {b!r}")
