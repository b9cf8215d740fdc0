"""`check_family` and `examine_family`: check a family of models against everything that a family promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sdprobe.testing.check import examine_with
from sdprobe.testing.family_laws import LAWS
from sdprobe.testing.family_trial import FamilyTrial
from sdprobe.testing.law import Law
from sdprobe.testing.report import Report

FAMILY_LAWS: tuple[Law, ...] = LAWS
"""What a family promises, in the order of the checks."""


def check_family(
    pipeline: Callable[[], Any],
    *,
    prompt: str = "a red circle",
    settings: Mapping[str, Any] = MappingProxyType({}),
    laws: Iterable[Law] = FAMILY_LAWS,
) -> Report:
    """Check a family of models: that a small pipeline of it, run by `sdprobe.sample` and attached, is the stock one.

    >>> from sdprobe.model.toy_model import toy_pipeline
    >>> from sdprobe.testing import check_family
    >>> print(check_family(toy_pipeline))
    law                                      why
    is loaded                        holds
    reads what encoders are given    holds
    finds words                      holds
    is the stock pipeline            holds
    looking changes nothing          holds
    passes every point               holds
    can be attached                  holds
    every point changes the picture  holds
    can ask the denoiser again       holds
    ends where it predicts           holds
    sees its attention               holds
    finds words at their keys        holds
    knows its places                 holds
    knows its activations            holds
    StableDiffusion(StableDiffusionPipeline, denoiser ... M parameters): 14 holds

    Whether heat maps are right is not among them: for that, plant a truth in the network, as
    ``tests/planted_families.py`` does, and see whether the map is that.

    Args:
        pipeline: makes a pipeline of the family: a small one with random weights, for pictures of 16 × 16 and 16 × 24.
        prompt: the prompt of its runs, of words that are tokens.
        settings: further arguments of `sdprobe.sample`, such as ``{"frames": 5}``.
        laws: the promises to check.

    Returns:
        The result of each.

    Raises:
        LawsBroken: an AssertionError with the table of all, if one fails.
    """
    __tracebackhide__ = True
    report = examine_family(pipeline, prompt=prompt, settings=settings, laws=laws)
    report.raise_for_failures()
    return report


def examine_family(
    pipeline: Callable[[], Any],
    *,
    prompt: str = "a red circle",
    settings: Mapping[str, Any] = MappingProxyType({}),
    laws: Iterable[Law] = FAMILY_LAWS,
) -> Report:
    """Check a family as `check_family` does, but return the report also if a promise is not kept.

    Args:
        pipeline: as for `check_family`.
        prompt: as for `check_family`.
        settings: as for `check_family`.
        laws: as for `check_family`.
    """
    trial = FamilyTrial(pipeline, prompt, settings)
    return Report(repr(trial.model), examine_with(trial, laws))
