"""`called` and `checked`: one call of one hook at a point, with the checks that apply to every hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import POINTS, Observer, Transform
from sdprobe.core.site import OutsideSite, Site
from sdprobe.core.step import Step

Hook = Observer | Transform


def checked(hook: Transform, point: str, given: Any, returned: Any) -> Any:
    """Return what a transform returned; refuse another kind, shape, dtype or device than it was given."""
    if returned is None:
        raise TypeError(f"{hook!r}.{point} returned None: a Transform returns the new value (did you forget `return`?)")
    if point == "attention":
        if not isinstance(returned, Attention):
            kind = type(returned).__name__
            raise TypeError(f"{hook!r}.{point} returned {kind}, not an Attention: use attn.with_probs(...)")
        return returned
    if not isinstance(returned, torch.Tensor):
        raise TypeError(f"{hook!r}.{point} returned {type(returned).__name__}, not a tensor")
    for what in ("shape", "dtype", "device"):
        before, after = getattr(given, what), getattr(returned, what)
        if before != after:
            raise ValueError(
                f"{hook!r}.{point} changed the {what} from {_plain(before)} to {_plain(after)}: it must stay the same"
            )
    return returned


def _plain(value: object) -> object:
    return list(value) if isinstance(value, torch.Size) else value


def called(hook: Hook, point: str, *args: Any) -> Any:
    """Call a hook; refuse in-place writes, and add a note to errors that says which hook raised them."""
    place = args[-1]
    tensors = _tensors(*args)
    before = [tensor._version for tensor in tensors]
    try:
        method: Callable[..., Any] = getattr(hook, point)
        if isinstance(hook, Observer) and torch.is_grad_enabled():
            with torch.no_grad():  # a record must not keep an autograd graph
                result = method(*args)
        else:
            result = method(*args)
    except BaseException as error:
        where = step_of(place) + (f", at {place.name}" if isinstance(place, Site) else "")
        error.add_note(f"raised in the hook {name_of(hook)} at the point {point!r}{where}")
        raise
    if isinstance(hook, Observer) and result is not None and point in POINTS:
        raise TypeError(
            f"{hook!r}.{point} returned a value, but it is an Observer: derive it from sdprobe.Transform to change"
        )
    made = _tensors(*args)[len(tensors) :] if isinstance(args[0], Attention) else ()
    # A tensor that was created during the call, such as the output of an attention, has version 0.
    if [tensor._version for tensor in tensors] != before or any(tensor._version for tensor in made):
        raise ValueError(f"{hook!r}.{point} wrote into its value in place: values that pass a point are shared")
    return result


def step_of(place: object) -> str:
    step = _step_or_run(place)
    return f", step {step.index} of {step.total}" if isinstance(step, Step) else ""


def _tensors(value: object, place: object = None) -> tuple[Tensor, ...]:
    step = _step_or_run(place)
    around = _tensors_of_step(step) if isinstance(step, Step) else ()
    if isinstance(value, Tensor):
        return (*around, value)
    return (*around, *value.tensors()) if isinstance(value, Attention) else around


def _step_or_run(place: object) -> object:
    """Return what a place belongs to: the step of a site, if it has one."""
    if isinstance(place, OutsideSite):
        return place.during
    return place.step if isinstance(place, Site) else place


def _tensors_of_step(step: Step) -> tuple[Tensor, ...]:
    return (step.latents,) if step.model_output is None else (step.latents, step.model_output)


def name_of(hook: Hook) -> str:
    try:
        return repr(hook)
    except Exception:  # an error in repr must not hide the first error
        return type(hook).__name__
