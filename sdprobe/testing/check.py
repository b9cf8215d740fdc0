"""`check_hook` and `examine`: check a hook against every law."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.run import Run
from sdprobe.model.toy_model import toy_pipeline
from sdprobe.sampling.loop import sample
from sdprobe.testing import cleanup_laws, composition_laws, point_laws, reuse_laws, run_variant_laws, saving_laws
from sdprobe.testing.law import Law
from sdprobe.testing.report import Finding, Report
from sdprobe.testing.trial import DoesNotApply, Trial, forget_models

LAWS: tuple[Law, ...] = tuple(
    sorted(
        (
            *point_laws.LAWS,
            *cleanup_laws.LAWS,
            *composition_laws.LAWS,
            *reuse_laws.LAWS,
            *run_variant_laws.LAWS,
            *saving_laws.LAWS,
        ),
        key=lambda law: law.stage,
    )
)
"""Every law, in the order of the checks."""


def check_hook(
    factory: Callable[[], Hook | Hooks],
    *,
    prompt: str | Sequence[str] = "a red circle",
    unrepeatable: Iterable[str] = (),
    laws: Iterable[Law] = LAWS,
    pipeline: Callable[[], Any] = toy_pipeline,
    way: Callable[..., Run] = sample,
) -> Report:
    """Check a hook against every law of hooks, on a toy model. A test needs only this call:

    >>> import sdprobe
    >>> from sdprobe.testing import check_hook
    >>> def test_latents():
    ...     check_hook(sdprobe.LatentRecorder)

    A hook that would cause errors when it is used by others, with other hooks, or twice, fails the check:

    >>> class Louder(sdprobe.Transform):
    ...     def noise_pred(self, x, step):
    ...         return x.mul_(1.1)
    >>> check_hook(Louder)
    Traceback (most recent call last):
    sdprobe.testing.report.LawsBroken: Louder() does not keep its laws
    ...
    writes nothing in place                fails           Louder.noise_pred wrote into its value
    ...

    Args:
        factory: makes a new hook: its class, or ``lambda: MyHook(...)``. On the toy model embeddings have width 16,
            latents are 8 × 8 and images 16 × 16 pixels.
        prompt: the prompt of the runs, for a hook that needs certain words; at most 8 tokens. Or several, for a hook
            that needs other prompts beside it in the run, such as the source of an edit.
        unrepeatable: names of records that may differ between equal runs, such as times and amounts of memory.
        laws: the laws to check: ``[law for law in LAWS if law.name != "can be pickled"]``. For one test per law, use
            ``pytest.mark.parametrize``.
        pipeline: makes the pipeline for the runs, for a hook of another family, or for your own family: a small one
            with random weights, for images of 16 × 16 pixels.
        way: makes a run, with the arguments of `sdprobe.sample`.

    Returns:
        The result of each law. A law does not apply if the hook refuses its runs before the first point, or if it does
        not concern the hook; the reason is reported.

    Raises:
        LawsBroken: an AssertionError with the table of all laws, if one fails.
        TypeError: for a factory that does not make one hook.
    """
    __tracebackhide__ = True
    report = examine(factory, prompt=prompt, unrepeatable=unrepeatable, laws=laws, pipeline=pipeline, way=way)
    report.raise_for_failures()
    return report


def examine(
    factory: Callable[[], Hook | Hooks],
    *,
    prompt: str | Sequence[str] = "a red circle",
    unrepeatable: Iterable[str] = (),
    laws: Iterable[Law] = LAWS,
    pipeline: Callable[[], Any] = toy_pipeline,
    way: Callable[..., Run] = sample,
) -> Report:
    """Check a hook as `check_hook` does, but return the report also if a law fails.

    >>> import sdprobe
    >>> from sdprobe.testing import LAWS, examine
    >>> class Forgetful(sdprobe.Transform):
    ...     def latents(self, x, step):
    ...         x * 1.1
    >>> print(examine(Forgetful, laws=LAWS[:4]))
    law                                why
    keeps its kind           fails           Forgetful.latents returned NoneType
    keeps the form           holds
    writes nothing in place  holds
    runs                     not tried       rests on: keeps its kind
    Forgetful(): 2 holds, 1 fails, 1 not tried
    """
    prompts = prompt if isinstance(prompt, str) else tuple(prompt)
    trial = Trial(factory, prompts, frozenset(unrepeatable), pipeline, way)
    return Report(repr(trial.hook()), examine_with(trial, laws))


def examine_with(trial: Any, laws: Iterable[Law]) -> tuple[Finding, ...]:
    """Return the result of each law on a trial; a law is not tried if one that it rests on fails."""
    findings: list[Finding] = []
    for law in laws:
        broken = [f.law.name for f in findings if f.verdict == "fails" and f.law.stage < law.stage]
        findings.append(Finding(law, "not tried", f"rests on: {', '.join(broken)}") if broken else _tried(law, trial))
        if findings[-1].verdict == "fails":
            forget_models()  # changes that it left on them must not affect the next law
    if any(found.verdict == "fails" for found in findings):
        forget_models()  # nor the next trial
    return tuple(findings)


def _tried(law: Law, trial: Any) -> Finding:
    began = perf_counter()
    try:
        law.trying(trial)
    except DoesNotApply as reason:
        return Finding(law, "does not apply", str(reason), seconds=perf_counter() - began)
    except Exception as error:
        error.add_note(f"law: {law.name}. {law.says}")
        why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return Finding(law, "fails", why, error, perf_counter() - began)
    return Finding(law, "holds", seconds=perf_counter() - began)
