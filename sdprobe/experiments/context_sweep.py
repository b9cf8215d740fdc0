"""`context_sweep`: which site of attention, in which steps, reads what tells one prompt from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from sdprobe.core.given_hooks import Given
from sdprobe.core.hook import Transform
from sdprobe.core.limits.only import only
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition
from sdprobe.experiments.effect_matrix import WHOLE, EffectMatrix, as_matrix
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.parts_of_model import GivenParts, Parts, attention_of, cross_attention_of, named_parts
from sdprobe.experiments.random_vectors import RandomPrompt
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.seeded_cases import seeded_cases
from sdprobe.experiments.step_windows import GivenWindows, Windows, step_windows, steps_of_run
from sdprobe.experiments.text_of_other_run import Place, ShowText, SiteText, TextOfRun, random_texts
from sdprobe.transform.mix_prompts import MixPrompts

EVERY = "all sites"


@dataclass(frozen=True)
class ContextSweep:
    """The conditions of `context_sweep`, as a `Design`.

    Args:
        b: the other prompt; ``"{colour}"`` stands for the case's own word.
        sites: patterns on the names of attention modules that read the text, by the name of the part.
        steps: windows of steps, by name.
        of_run: whether the text to show is that of a run of b: in joint attention, and where a mask hides the padding,
            which is another for a.
    """

    b: str
    sites: Parts
    steps: Windows
    of_run: bool = False

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return the other prompt alone; and each site with each window, shown the other prompt and as a control."""
        found = {WHOLE: Condition((), prompt=case.fill(self.b))}
        for control in (False, True):
            for part, sites in self.sites.items():
                for window, steps in self.steps.items():
                    name = f"{'control, random vectors: ' * control}{part}, {window}"
                    hooks = _Shown(self, runner, sites, steps, control)
                    found[name] = Condition(hooks, control, {"module": part, "steps": window})
        return found

    def result(self) -> type[EffectMatrix]:
        """Return the class of the result."""
        return EffectMatrix

    def hook(self, runner: CaseRunner, control: bool) -> Transform:
        """Return what shows the other prompt, or random vectors, at every site."""
        other, seed = runner.case.fill(self.b), seed_of(runner.case.prompt, runner.case.seed)
        if not self.of_run:
            return RandomPrompt(other, seed) if control else MixPrompts({other: 1.0})
        texts = runner.once("the text of b", lambda: _texts_of(runner, other))
        return ShowText(runner.once("random texts", lambda: random_texts(texts, seed)) if control else texts)


@dataclass(frozen=True)
class _Shown:
    """Makes the hook of one condition, once the run that it may need is there."""

    sweep: ContextSweep
    runner: CaseRunner
    sites: tuple[str, ...]
    steps: tuple[int, ...]
    control: bool

    def __call__(self) -> Given:
        return [only(self.sweep.hook(self.runner, self.control), sites=self.sites, steps=self.steps)]


def _texts_of(runner: CaseRunner, prompt: str) -> Mapping[Place, SiteText]:
    kept = TextOfRun()
    texts: Mapping[Place, SiteText] = runner.run([kept], prompt=prompt)[kept].texts
    return texts


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
    """Show another prompt to one site of attention in one window of steps, site by site and window by window.

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
    Where the denoiser also gets a vector of the whole prompt (Stable Diffusion XL and 3, Flux), this is no site's, so
    all sites together are not all of b.

    In joint attention the text is a stream of its own, which sees the picture and changes from block to block. There b
    is run once from the same noise, and the picture's places look at its tokens as they are in that run, at the same
    site and step (`ShowText`). In late steps they also hold what they have read from the picture of b. Cross-attention
    that is shown no padding (PixArt, Sana, LTX-Video) is shown b in this way too, so that it sees b's tokens, however
    many these are, and not as many as a has.

    Controls are always there: at each site and window, random vectors of the norms of b's embeddings are shown, or,
    where the text is that of a run, keys and values of the norms of b's. Words
    in another order would be no control: cross-attention does not look at the order of its keys, and the words that
    tell b from a would still be there.

    Args:
        model: as in `sdprobe.experiments.experiment`.
        a: the prompt, or several, or cases.
        b: the other prompt; ``"a {other} circle"`` takes each case's own word.
        measures: by which a and b differ, as in `sdprobe.experiments.experiment`.
        sites: patterns on the names of modules of cross-attention, or else of joint attention, each of which is a row
            of the matrix; or for each row, by its name, one or several that are shown b together. None for each site,
            and for all of them together.
        windows: ranges or lists of steps, or these by name; None for all steps and for each quarter.
        seeds: the seeds; None for 0 to 11 of each text, and for a `Case` its own.
        effect: the name of the measure that the matrix shows; None for the first.
        how: steps, guidance_scale, batch, folder, executor and others, as in `sdprobe.experiments.experiment`.

    Raises:
        ValueError: for a pattern that fits no module, for steps that the run does not have, and as
            `sdprobe.experiments.experiment` does.

    Source: Basu et al. 2024, "On Mechanistic Knowledge Localization in Text-to-Image Generative Models", section 4.
    """
    own = sampler_of(model)
    every = attention_of(own.model)
    parts = {name: (name,) for name in every} | {EVERY: every} if sites is None else named_parts(sites, own.model)
    windows = step_windows(windows, steps_of_run(own.model, how))
    of_run = own.model.hides_padding or not cross_attention_of(own.model)
    sweep = ContextSweep(b, parts, windows, of_run)
    result = experiment(model, seeded_cases(a, seeds), sweep, measures, **how)
    return as_matrix(result, EffectMatrix, effect, f"{b!r} shown to attention")
