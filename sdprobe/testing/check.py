"""`check_hook`: anyone's hook through every law."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.run import Run
from sdprobe.model.toy_model import toy_pipeline
from sdprobe.sampling.loop import sample
from sdprobe.testing import cleanup_laws, composition_laws, point_laws, reuse_laws, run_variant_laws
from sdprobe.testing.law import Law
from sdprobe.testing.report import Finding, Report
from sdprobe.testing.trial import DoesNotApply, Trial, forget_models

LAWS: tuple[Law, ...] = tuple(
    sorted(
        (*point_laws.LAWS, *cleanup_laws.LAWS, *composition_laws.LAWS, *reuse_laws.LAWS, *run_variant_laws.LAWS),
        key=lambda law: law.stage,
    )
)
"""Every law, in the order in which they are tried."""


def check_hook(
    factory: Callable[[], Hook | Hooks],
    *,
    prompt: str = "a red circle",
    unrepeatable: Iterable[str] = (),
    laws: Iterable[Law] = LAWS,
    pipeline: Callable[[], Any] = toy_pipeline,
    way: Callable[..., Run] = sample,
) -> Report:
    """Hold a hook to every law that hooks keep, on a toy model. In a test this is all there is to write:

    >>> import sdprobe
    >>> from sdprobe.testing import check_hook
    >>> def test_latents():
    ...     check_hook(sdprobe.LatentRecorder)

    A hook that could break something when it is run by others, together with others, or twice, is found out here:

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
        factory: makes the hook anew: its class, or ``lambda: MyHook(...)``. On the toy model embeddings are 16 wide,
            latents 8 × 8 and pictures 16 × 16 pixels.
        prompt: what the runs draw, for a hook that looks for certain words; at most 8 tokens.
        unrepeatable: names of records that may differ between equal runs, such as times and amounts of memory.
        laws: which to hold it to: ``[law for law in LAWS if law.name != "can be pickled"]``. One at a time, they are
            what ``pytest.mark.parametrize`` takes.
        pipeline: makes the pipeline it is tried on, for a hook of another family, or a family of one's own: a small one
            of random weights, for pictures of 16 × 16 pixels.
        way: what makes a run, with the arguments of `sdprobe.sample`.

    Returns:
        What came of each law. One that a hook refuses to be tried with, before the run's first point, or that has
        nothing to say of it, does not apply, and is reported with the reason.

    Raises:
        LawsBroken: an AssertionError with the table of all laws, where one does not hold.
        TypeError: for a factory that does not make one hook.
    """
    __tracebackhide__ = True
    report = examine(factory, prompt=prompt, unrepeatable=unrepeatable, laws=laws, pipeline=pipeline, way=way)
    report.raise_for_failures()
    return report


def examine(
    factory: Callable[[], Hook | Hooks],
    *,
    prompt: str = "a red circle",
    unrepeatable: Iterable[str] = (),
    laws: Iterable[Law] = LAWS,
    pipeline: Callable[[], Any] = toy_pipeline,
    way: Callable[..., Run] = sample,
) -> Report:
    """As `check_hook`, but a law that does not hold is only reported.

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
    trial = Trial(factory, prompt, frozenset(unrepeatable), pipeline, way)
    described = repr(trial.hook())
    findings: list[Finding] = []
    for law in laws:
        broken = [f.law.name for f in findings if f.verdict == "fails" and f.law.stage < law.stage]
        findings.append(Finding(law, "not tried", f"rests on: {', '.join(broken)}") if broken else _tried(law, trial))
        if findings[-1].verdict == "fails":
            forget_models()  # what it may have left on them is not to be held against the next law
    if any(found.verdict == "fails" for found in findings):
        forget_models()  # nor against the next hook
    return Report(described, tuple(findings))


def _tried(law: Law, trial: Trial) -> Finding:
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
