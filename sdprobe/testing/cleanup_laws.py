"""Laws about the end of a run, also after errors: the model is unchanged, and errors are raised."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from sdprobe.core.compose import METHODS, Hook
from sdprobe.core.hook import overrides
from sdprobe.testing.flat_records import same_run
from sdprobe.testing.law import Broken, law
from sdprobe.testing.model_footprint import footprint
from sdprobe.testing.synthetic_hooks import raising
from sdprobe.testing.trial import STANDARD, DoesNotApply, Setting, Trial
from sdprobe.testing.watched_calls import with_methods


class Deliberate(Exception):
    """An error raised on purpose."""


@law(stage=2)
def leaves_the_model_as_it_was(trial: Trial) -> None:
    """After a run the model is unchanged: no forward hooks, no other weights, methods or flags."""
    trial.run(trial.hook())
    untouched(trial)


@law()
def leaves_nothing_after_an_error(trial: Trial) -> None:
    """If another hook raises an error anywhere, the run ends with this error and the model is unchanged."""
    _ended_by(trial, Deliberate)


@law()
def leaves_nothing_after_an_interrupt(trial: Trial) -> None:
    """If a KeyboardInterrupt arrives anywhere, the run ends with it and the model is unchanged."""
    _ended_by(trial, KeyboardInterrupt)


@law()
def swallows_no_error(trial: Trial) -> None:
    """An error raised in the hook's own methods leaves the run, and the model is unchanged."""
    longest = _longest_calls(trial)
    if not longest:
        raise DoesNotApply("its methods compute nothing with torch, so there is nothing that could fail")
    for method, (call, count) in longest.items():
        for at in _spread(count):
            error = Deliberate(f"raised within {method}, at operation {at + 1} of {count}")
            _comes_out(trial, error, _failing(trial.hook(), method, call, at, error), wrapped=True)
        stop = KeyboardInterrupt(f"raised within {method}")
        _comes_out(trial, stop, _failing(trial.hook(), method, call, 0, stop))
    untouched(trial)


@law(stage=2)
def leaves_global_state_alone(trial: Trial) -> None:
    """A run leaves the state of torch, numpy and Python unchanged: random states, default dtype, gradients, threads."""
    changed = _changed_by(lambda: trial.run(trial.hook()))
    if changed:  # a run may change state without the hook, for example with runtime type checks
        changed -= _changed_by(trial.run)
    if changed:
        raise Broken(f"a run changed {', '.join(sorted(changed))}")


def untouched(trial: Trial, setting: Setting = STANDARD) -> None:
    """Raises `Broken` if a setting's model differs from its state when new."""
    model, new = trial.model(setting.variant)
    now = footprint(model.pipe)
    if changed := [name for name in dict.fromkeys([*new, *now]) if new.get(name) != now.get(name)]:
        what = "; ".join(f"{name} ({_what(new.get(name), now.get(name))})" for name in changed[:3])
        raise Broken(f"it left its traces on the model: {what}{', ...' * (len(changed) > 3)}")


def _ended_by(trial: Trial, kind: type[BaseException]) -> None:
    pooling = trial.model(STANDARD.variant)[0].pooling
    # A model that is told no vector of the whole prompt does not pass that point.
    for method in (method for method in METHODS if pooling or method != "pooled_embeds"):
        error = kind(f"raised by another hook at {method}")
        _comes_out(trial, error, trial.hook(), raising(method, error))
    untouched(trial)
    if not same_run(trial.run(), trial.plain()):
        raise Broken("a plain run on the model no longer gives what it gave")


def _comes_out(trial: Trial, error: BaseException, *stack: Hook, wrapped: bool = False) -> None:
    try:
        trial.run(*stack)
    except BaseException as raised:
        if raised is error or (wrapped and _wraps(raised, error)):
            return
        if isinstance(raised, KeyboardInterrupt):
            raise
        raise Broken(f"{error!r} came out as {raised!r}") from raised
    raise Broken(f"{error!r} was swallowed: the run went on")


def _wraps(raised: BaseException | None, error: BaseException) -> bool:
    """Whether an error contains another; libraries that hooks call, such as tokenizers, wrap errors."""
    while raised is not None and raised is not error:
        raised = raised.__cause__ or raised.__context__
    return raised is error


class _Counting(TorchFunctionMode):
    """Counts torch's operations, and raises an error at one of them."""

    def __init__(self, at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.error is not None and self.count - 1 == self.at:
            raise self.error
        return func(*args, **(kwargs or {}))


def _longest_calls(trial: Trial) -> dict[str, tuple[int, int]]:
    """Return, for every method that computes, its first call with the most operations, and their number."""
    counts: dict[str, list[int]] = {}
    hook = trial.hook()

    def counting(method: str) -> Callable[..., Any]:
        def act(self: Any, *given: Any) -> Any:
            with _Counting() as mode:
                answer = getattr(type(hook), method)(self, *given)
            counts.setdefault(method, []).append(mode.count)
            return answer

        return act

    trial.run(with_methods(hook, {method: counting(method) for method in METHODS if overrides(hook, method)}))
    return {method: (each.index(max(each)), max(each)) for method, each in counts.items() if max(each)}


def _failing(hook: Hook, method: str, call: int, at: int, error: BaseException) -> Hook:
    """Return the hook, changed to fail at one operation of one call of a method."""
    modes = chain(repeat(_Counting(), call), [_Counting(at, error)])
    kind = type(hook)

    def act(self: Any, *given: Any) -> Any:
        with next(modes, _Counting()):
            return getattr(kind, method)(self, *given)

    return with_methods(hook, {method: act})


def _spread(count: int) -> list[int]:
    """Return the operations to fail at: all of a few, the first, middle and last of many."""
    return sorted({*range(min(count, 4)), *((count // 2, count - 1) if count else ())})


def _global_state() -> dict[str, Any]:
    return {
        "torch's random state": torch.get_rng_state(),
        "numpy's random state": [x.tolist() if hasattr(x, "tolist") else x for x in np.random.get_state(legacy=True)],
        "Python's random state": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "whether gradients are enabled": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "whether torch is deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _changed_by(act: Callable[[], object]) -> set[str]:
    before = _global_state()
    act()
    after = _global_state()
    return {name for name in before if not _equal(before[name], after[name])}


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def _what(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        return ", ".join(name for name in before if before[name] != after.get(name))
    return "is new" if before is None else "is gone" if after is None else "changed"


LAWS = (
    leaves_the_model_as_it_was,
    leaves_nothing_after_an_error,
    leaves_nothing_after_an_interrupt,
    swallows_no_error,
    leaves_global_state_alone,
)
