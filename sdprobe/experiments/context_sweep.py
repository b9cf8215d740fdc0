"""`context_sweep`: which site of cross-attention, in which steps, reads what tells one prompt from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from sdprobe.core.limits.only import only
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition
from sdprobe.experiments.effect_matrix import WHOLE, EffectMatrix, as_matrix
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.parts_of_model import GivenParts, Parts, cross_attention_of, named_parts
from sdprobe.experiments.random_vectors import RandomPrompt
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.seeded_cases import seeded_cases
from sdprobe.experiments.step_windows import GivenWindows, Windows, step_windows, steps_of_run
from sdprobe.transform.mix_prompts import MixPrompts

EVERY = "all sites"


@dataclass(frozen=True)
class ContextSweep:
    """The conditions of `context_sweep`, as a `Design`.

    Args:
        b: the other prompt; ``"{colour}"`` stands for the case's own word.
        sites: patterns on the names of cross-attention modules, by the name of the part.
        steps: windows of steps, by name.
    """

    b: str
    sites: Parts
    steps: Windows

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return the other prompt alone; and each site with each window, shown the other prompt and as a control."""
        other = case.fill(self.b)
        shown = MixPrompts({other: 1.0})
        found = {WHOLE: Condition([shown])}
        for control in (False, True):
            for part, sites in self.sites.items():
                for window, steps in self.steps.items():
                    hook = RandomPrompt(other, seed_of(case.prompt, case.seed)) if control else shown
                    name = f"{'control, random vectors: ' * control}{part}, {window}"
                    hooks = [only(hook, sites=sites, steps=steps)]
                    found[name] = Condition(hooks, control, {"module": part, "steps": window})
        return found

    def result(self) -> type[EffectMatrix]:
        """Return the class of the result."""
        return EffectMatrix


def context_sweep(
    model: Any,
    a: Cases,
    b: str,
    measures: Measures,
    *,
    sites: GivenParts | None = None,
    windows: GivenWindows = None,
    seeds: int | Iterable[int] | None = None,
    effect: str | None = None,
    **how: Unpack[How],
) -> EffectMatrix:
    """Show another prompt to one site of cross-attention in one window of steps, site by site and window by window.

    >>> import numpy as np
    >>> import sdprobe
    >>> from sdprobe.shapes import detect
    >>> def blue(run):
    ...     found = detect(np.asarray(run.images[0]))
    ...     return bool(found) and found[0].colour == "blue"
    >>> settings = {"windows": [range(4)], "seeds": range(2), "steps": 4, "guidance_scale": 5.0, "progress": False}
    >>> sites = {"all sites": "*attn2"}
    >>> result = context_sweep(sdprobe.load(), "a red circle", "a blue circle", blue, sites=sites, **settings)
    >>> result.effect()
    share of the way, blue [95 % interval]  all steps
    all sites                               1.00 [0.16, 1.00]

    The whole network reads prompt a, and only these sites, in these steps, read b: `MixPrompts` under `only`. The
    condition ``"all of b"`` is the run of b itself, so that the effect can be told as a share of the way from a to b
    (`EffectMatrix`). A site with a large effect is enough; one without may still read what matters, if others do too.
    In Stable Diffusion XL the vector of the whole prompt is no site's, so all sites together are not all of b.

    Controls are always there: at each site and window, random vectors of the norms of b's embeddings are shown. Words
    in another order would be no control: cross-attention does not look at the order of its keys, and the words that
    tell b from a would still be there.

    Args:
        model: as in `sdprobe.experiments.experiment`.
        a: the prompt, or several, or cases.
        b: the other prompt; ``"a {other} circle"`` takes each case's own word.
        measures: by which a and b differ, as in `sdprobe.experiments.experiment`.
        sites: patterns on the names of cross-attention modules, each of which is a row of the matrix; or for each row,
            by its name, one or several that are shown b together. None for each site, and for all of them together.
        windows: ranges or lists of steps, or these by name; None for all steps and for each quarter.
        seeds: the seeds; None for 0 to 11 of each text, and for a `Case` its own.
        effect: the name of the measure that the matrix shows; None for the first.
        how: steps, guidance_scale, batch, folder, executor and others, as in `sdprobe.experiments.experiment`.

    Raises:
        ValueError: for a model of joint attention, in which the text is one stream through all sites, and no site has a
            prompt of its own; for a pattern that fits no module, for steps that the run does not have, and as
            `sdprobe.experiments.experiment` does.

    Source: Basu et al. 2024, "On Mechanistic Knowledge Localization in Text-to-Image Generative Models", section 4.
    """
    own = sampler_of(model)
    every = cross_attention_of(own.model)
    if not every:
        raise ValueError(
            f"{own.model!r} has no cross-attention: in joint attention the text is one stream through all sites, and "
            f"no site has a prompt of its own. To see which block carries what b says, use patch_sweep(model, a, b, "
            f"measures)"
        )
    parts = {name: (name,) for name in every} | {EVERY: every} if sites is None else named_parts(sites, own.model)
    sweep = ContextSweep(b, parts, step_windows(windows, steps_of_run(own.model, how)))
    result = experiment(model, seeded_cases(a, seeds), sweep, measures, **how)
    return as_matrix(result, EffectMatrix, effect, f"{b!r} shown to cross-attention")
