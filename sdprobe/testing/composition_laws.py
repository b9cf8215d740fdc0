"""Laws of composition: hooks act together as they act one by one."""

from __future__ import annotations

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.hook import POINTS, overrides
from sdprobe.core.limits.only import only
from sdprobe.core.run import Run
from sdprobe.testing.flat_records import difference, live_tensors, same_run
from sdprobe.testing.law import Broken, law
from sdprobe.testing.synthetic_hooks import Differentiated, affine, same, seen
from sdprobe.testing.trial import Alone, DoesNotApply, Trial


@law()
def nesting_does_not_matter(trial: Trial) -> None:
    """Hooks(a, Hooks(hook, b)) is a, hook, b."""
    hook, before, after = trial.hook(), affine("latents"), seen("noise_pred")
    flat, nested = trial.run(before, hook, after), trial.run(Hooks(before, Hooks(hook, after)))
    _agree(trial, Alone(flat, trial.records(flat, hook)), nested, hook, "nested in other Hooks")


@law()
def observers_change_nothing(trial: Trial) -> None:
    """With an observer every value is the same, bit for bit, as without it; among transforms too."""
    trial.observers_only()
    others = [affine(point) for point in POINTS]
    if not same_run(trial.alone.run, trial.plain()):
        raise Broken("with it the run comes to other values than without")
    if not same_run(trial.run(*others, trial.hook()), trial.run(*others)):
        raise Broken("among transforms, the run comes to other values than without it")


@law()
def observers_may_stand_anywhere(trial: Trial) -> None:
    """An observer records the same before and after transforms, alone and among other observers."""
    trial.observers_only()
    hook, others, watching = trial.hook(), [affine(p) for p in POINTS], [seen(p) for p in POINTS]
    behind = trial.run(*others, hook)
    expected = Alone(behind, trial.records(behind, hook))
    _agree(trial, expected, trial.run(hook, *others), hook, "standing before the transforms")
    _agree(trial, expected, trial.run(*watching, *others, hook), hook, "among other observers")


@law()
def is_not_disturbed_by_observers(trial: Trial) -> None:
    """Other observers do not change what the hook does; those before and after it get the same values."""
    hook, before, after = trial.hook(), [seen(p) for p in POINTS], [seen(p) for p in POINTS]
    watched = trial.run(*before, hook, *after)
    _agree(trial, trial.alone, watched, hook, "between observers")
    for point, one, other in zip(POINTS, before, after, strict=True):
        if at := difference(trial.records(watched, one), trial.records(watched, other)):
            raise Broken(f"observers before and after it saw different values at {point}: {at}")


@law()
def is_not_disturbed_by_identities(trial: Trial) -> None:
    """Transforms that return their input at every point do not change what the hook does."""
    hook = trial.hook()
    between = trial.run(*(same(p) for p in POINTS), hook, *(same(p) for p in POINTS))
    _agree(trial, trial.alone, between, hook, "between transforms that return what they were given")


@law()
def commutes_with_transforms_elsewhere(trial: Trial) -> None:
    """A transform at another point may come before or after the hook."""
    trial.transforms_only()
    hook = trial.hook()
    elsewhere = {point: affine(point) for point in POINTS if not overrides(hook, point)}
    if not elsewhere:
        raise DoesNotApply("it acts at every point")
    before, after = trial.run(*elsewhere.values(), hook), trial.run(hook, *elsewhere.values())
    if same_run(before, after):
        return
    at = [point for point, o in elsewhere.items() if not same_run(trial.run(o, hook), trial.run(hook, o))]
    raise Broken(f"it matters whether a transform at {', '.join(at) or 'several other points'} stands before or after")


@law()
def can_be_limited(trial: Trial) -> None:
    """A hook limited to all steps acts as without the limit."""
    hook = trial.hook()
    try:
        limited = only(hook, steps=range(1_000))
    except ValueError as refusal:
        raise DoesNotApply(str(refusal)) from refusal
    if not same_run(trial.alone.run, trial.run(limited)):
        raise Broken("only(hook, steps=all of them) comes to other values than the hook")


@law()
def records_hold_no_graph(trial: Trial) -> None:
    """The tensors that an observer keeps need no gradient, as they would keep the denoiser's graph in memory."""
    trial.observers_only()
    hook = trial.hook()
    run = trial.run(Differentiated(), hook)
    if holding := [path for path, tensor in live_tensors(run[hook]) if tensor.requires_grad]:
        raise Broken(f"beside a transform that needs gradients, {', '.join(holding[:3])} holds a graph: detach it")


def _agree(trial: Trial, expected: Alone, found: Run, hook: Hook, how: str) -> None:
    if not same_run(expected.run, found):
        raise Broken(f"{how}, the run comes to other values")
    if at := difference(expected.records, trial.records(found, hook)):
        raise Broken(f"{how}, it records something else: {at}")


LAWS = (
    nesting_does_not_matter,
    observers_change_nothing,
    observers_may_stand_anywhere,
    is_not_disturbed_by_observers,
    is_not_disturbed_by_identities,
    commutes_with_transforms_elsewhere,
    can_be_limited,
    records_hold_no_graph,
)
