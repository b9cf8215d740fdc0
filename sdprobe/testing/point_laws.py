"""Laws of a hook's calls at its points. Without them no run ends well, so they are checked first."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from sdprobe.testing.law import Broken, law
from sdprobe.testing.trial import DoesNotApply, Trial
from sdprobe.testing.watched_calls import Noted, watched


@law(stage=0)
def keeps_its_kind(trial: Trial) -> None:
    """An observer returns nothing; a transform returns a value."""
    _refuse(_noted(trial).kind)


@law(stage=0)
def keeps_the_form(trial: Trial) -> None:
    """A transform returns a value with the shape, dtype and device of its input."""
    trial.transforms_only()
    _refuse(_noted(trial).form)


@law(stage=0)
def writes_nothing_in_place(trial: Trial) -> None:
    """A hook does not write into the values it gets, in any way, as they are shared."""
    _refuse(_noted(trial).written)


@law(stage=1)
def runs(trial: Trial) -> None:
    """A run of two steps ends, and its latents are finite."""
    try:
        ended = trial.alone.run
    except DoesNotApply as refusal:
        raise Broken(f"{refusal}; give check_hook a prompt that the hook can work with") from refusal
    assert ended.latents is not None  # it has ended
    if not ended.latents.isfinite().all():
        raise Broken("the run ends in latents that are no numbers (infinite, or NaN)")


@cache
def _noted(trial: Trial) -> Noted:
    noted = Noted()
    with suppress(Exception):  # other errors are reported by the law `runs`
        trial.run(watched(trial.hook(), noted))
    if not noted.calls:
        raise DoesNotApply("none of its points was called")
    return noted


def _refuse(faults: list[str]) -> None:
    if faults:
        each = list(dict.fromkeys(faults))
        raise Broken("; ".join(each[:3]) + (f"; and {len(each) - 3} more" if len(each) > 3 else ""))


LAWS = (keeps_its_kind, keeps_the_form, writes_nothing_in_place, runs)
