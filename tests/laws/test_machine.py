"""Everything at once: generated stacks in generated runs, errors, interrupts, runs within runs and beside runs.

After every step the models are as they were, every observer saw what it sees alone, and the result is that of the
transforms one by one, by a loop written out by hand.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

import sdprobe
from sdprobe.core.compose import METHODS
from sdprobe.core.hook import POINTS, asks, overrides
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.testing import footprint
from tests.laws.strategies import (
    MODULES,
    PASSED,
    affine,
    factors,
    hooks,
    points,
    run,
    same_run,
    same_values,
    seen,
    shifts,
)
from tests.tiny import stable_diffusion

DEADLINE = 120.0
THOROUGH = settings.default.max_examples >= 100
EVERYWHERE = ("*.attn1", "*.attn2", "mid_block.*")


class Deliberate(Exception):
    pass


@cache
def models() -> tuple[sdprobe.Model, sdprobe.Model]:
    return sdprobe.load(stable_diffusion()), sdprobe.load(stable_diffusion(prediction_type="v_prediction", seed=1))


@cache
def plain(model: int, **changed: Any) -> sdprobe.Run:
    return run(models()[model], **changed)


class Fold(sdprobe.Transform):
    """Transforms one after another: what passing through several means, said once more and by other means."""

    def __init__(self, inner: list[sdprobe.Transform]) -> None:
        self.inner = inner
        inside = [point for point in ("attention", "activation") if any(overrides(hook, point) for hook in inner)]
        # Every pattern must match at each point: where both act, so do these.
        self.modules = {1: MODULES.get(inside[0]) if inside else None, 2: EVERYWHERE}.get(len(inside))
        self.needs_grad = any(hook.needs_grad for hook in inner)

    def start(self, run: sdprobe.Run) -> None:
        self.inner = [copy.copy(hook) for hook in self.inner]
        for own in self.inner:
            run.records.append((object(), own))
            own.start(run)

    def finish(self, run: sdprobe.Run) -> None:
        for own in reversed(self.inner):
            own.finish(run)


def fold(stack: list[Any]) -> sdprobe.Hooks:
    inner = [hook for hook in sdprobe.Hooks(*stack) if isinstance(hook, sdprobe.Transform)]

    def acting(point: str) -> Callable[..., Any]:
        def act(self: Any, x: Any, place: Any) -> Any:
            for own in self.inner:
                inside = not isinstance(place, sdprobe.Site) or asks(own, place.name, place.kind)
                if overrides(own, point) and inside:
                    x = getattr(own, point)(x, place)
            return x

        return act

    points = [point for point in POINTS if any(overrides(hook, point) for hook in inner)]
    made = type("Fold", (Fold,), {point: acting(point) for point in points})
    return sdprobe.Hooks(made(inner)) if points else sdprobe.Hooks()


def recorded(result: sdprobe.Run, hook: Any) -> list[torch.Tensor]:
    """What an observer holds after a run."""
    record = result[hook.inner if isinstance(hook, LimitedHook) else hook]
    if isinstance(record, sdprobe.LatentRecorder):
        return [record["latents"], record.final]
    if hasattr(type(record), "heat_map"):
        return list(record.sums.values())
    return list(record.values)


class Raising:
    """Raises at the so-manieth call of a method."""

    def __init__(self, method: str, error: type[BaseException], at: int) -> None:
        self.method, self.error, self.at, self.calls = method, error, at, [0]
        self.modules = MODULES.get(method)

    def raised(self, value: Any) -> Any:
        self.calls[0] += 1
        if self.calls[0] > self.at:
            raise self.error("on purpose")
        return value if isinstance(self, sdprobe.Transform) and self.method in POINTS else None


def raising(kind: type, method: str, error: type[BaseException], at: int) -> Any:
    act = (lambda self, value, place: self.raised(value)) if method in POINTS else (lambda self, run: self.raised(run))
    return type("Raising", (Raising, kind), {method: act})(method, error, at)


class Starting(sdprobe.Observer):
    """Starts another run from inside a run."""

    def __init__(self, point: str, model: sdprobe.Model, stack: list[Any]) -> None:
        self.point, self.model, self.stack, self.modules = point, model, stack, MODULES.get(point)

    def start(self, run: sdprobe.Run) -> None:
        self.inner: sdprobe.Run | None = None

    def begin(self) -> None:
        if self.inner is None:
            self.inner = run(self.model, *self.stack)


def starting(point: str, model: sdprobe.Model, stack: list[Any]) -> Starting:
    return type("Starting", (Starting,), {point: lambda self, x, place: self.begin()})(point, model, stack)


def together(*works: Callable[[], Any]) -> list[Any]:
    """What each returns or raises, each in a thread of its own; an error where one does not come to an end."""
    found: dict[int, Any] = {}

    def do(i: int) -> None:
        torch.set_num_threads(1)
        try:
            found[i] = works[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=do, args=(i,), daemon=True) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), f"a run has not ended after {DEADLINE:g} s"
    return [found[i] for i in range(len(works))]


gradient = st.builds(
    lambda: sdprobe.LossGuidance(
        lambda x: x.square().mean((1, 2, 3)), 0.5, space="latent", through="model", checkpoint=False
    )
)
limits = st.sampled_from(
    [
        sdprobe.after(1),
        sdprobe.every(2),
        sdprobe.when(lambda step: step.sigma < 2),
        lambda hook: sdprobe.only(hook, rows=[0]),
        lambda hook: sdprobe.only(hook, rows=lambda row: row.image % 2 == 0),
    ]
)
limited = st.builds(lambda limit, hook: limit(hook), limits, hooks)
# Several at one point, where their order matters; and anything with anything.
crowds = points.flatmap(
    lambda point: st.lists(
        st.one_of(st.builds(affine, st.just(point), factors, shifts), st.builds(seen, st.just(point))),
        min_size=2,
        max_size=4,
    )
)
lists = st.one_of(crowds, st.lists(st.one_of(hooks, hooks, limited, gradient), max_size=4))
which = st.integers(0, 1)
errors = st.sampled_from([Deliberate, KeyboardInterrupt])
kinds = st.sampled_from([sdprobe.Observer, sdprobe.Transform])
changes = st.fixed_dictionaries(
    {}, optional={"guidance_scale": st.just(1.0), "images_per_prompt": st.just(2), "seed": st.just(7)}
)


class Machine(RuleBasedStateMachine):
    """Stacks of hooks, and what can befall them."""

    stacks = Bundle("stacks")

    @initialize(target=stacks)
    def begin(self) -> list[Any]:
        self.before = [footprint(model.pipe) for model in models()]
        return []

    @rule(target=stacks, stack=lists)
    def make(self, stack: list[Any]) -> list[Any]:
        return stack

    @rule(target=stacks, a=stacks, b=st.lists(hooks, max_size=1))
    def extend(self, a: list[Any], b: list[Any]) -> Any:
        return [*a, *b] if len(a) < 5 else multiple()

    @rule(stack=stacks, model=which, changed=changes, which_observer=st.integers(0, 9))
    def runs(self, stack: list[Any], model: int, changed: dict[str, Any], which_observer: int) -> None:
        result = run(models()[model], *stack, **changed)
        observers = [hook for hook in stack if isinstance(hook, sdprobe.Observer)]
        alone = [observers[which_observer % len(observers)]] if observers else []
        folded = run(models()[model], fold(stack), *alone, **changed)
        assert same_run(result, folded)
        for observer in alone:
            assert same_values(recorded(result, observer), recorded(folded, observer))

    @rule(
        stack=stacks,
        model=which,
        kind=kinds,
        method=st.sampled_from(METHODS),
        error=errors,
        at=st.integers(0, 4),
        place=st.integers(0, 4),
    )
    def fails(
        self,
        stack: list[Any],
        model: int,
        kind: type,
        method: str,
        error: type[BaseException],
        at: int,
        place: int,
    ) -> None:
        bad = raising(kind, method, error, at)
        (result,) = together(lambda: run(models()[model], *stack[:place], bad, *stack[place:]))
        if isinstance(result, error):
            assert any(f"at the point {method!r}" in note for note in result.__notes__)
        elif isinstance(result, BaseException):
            raise result
        else:
            assert bad.calls[0] <= at  # it never came to raise
            assert same_run(result, run(models()[model], fold(stack)))
        assert same_run(run(models()[model]), plain(model))

    @rule(outer=stacks, inner=stacks, model=which, point=st.sampled_from(PASSED))
    def runs_within_a_run(self, outer: list[Any], inner: list[Any], model: int, point: str) -> None:
        nested = starting(point, models()[1 - model], inner)
        (result,) = together(lambda: run(models()[model], *outer, nested))
        if isinstance(result, BaseException):
            raise result
        assert same_run(result, run(models()[model], fold(outer)))
        assert same_run(result[nested].inner, run(models()[1 - model], fold(inner)))

    @rule(outer=stacks, model=which, point=st.sampled_from(PASSED))
    def a_run_within_a_run_of_its_own_model_is_refused(self, outer: list[Any], model: int, point: str) -> None:
        (result,) = together(lambda: run(models()[model], *outer, starting(point, models()[model], [])))
        assert isinstance(result, RuntimeError)
        assert "cannot start another run of the model" in str(result)

    @rule(a=stacks, b=stacks, of_a=which, of_b=which, error=st.none() | errors, method=st.sampled_from(PASSED))
    def runs_beside_each_other(
        self, a: list[Any], b: list[Any], of_a: int, of_b: int, error: type[BaseException] | None, method: str
    ) -> None:
        bad = [] if error is None else [raising(sdprobe.Observer, method, error, 0)]
        watcher = seen(method)
        first, second = together(
            lambda: run(models()[of_a], *a, watcher),
            lambda: run(models()[of_b], *b, *bad),
        )
        if isinstance(first, BaseException):
            raise first
        alone = run(models()[of_a], fold(a), watcher)
        assert same_run(first, alone)
        assert same_values(recorded(first, watcher), recorded(alone, watcher))
        if error is not None:
            assert isinstance(second, error)
        elif isinstance(second, BaseException):
            raise second
        else:
            assert same_run(second, run(models()[of_b], fold(b)))

    @invariant()
    def nothing_stays_behind(self) -> None:
        if hasattr(self, "before"):
            assert [footprint(model.pipe) for model in models()] == self.before


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=settings.default.max_examples if THOROUGH else 6, stateful_step_count=20 if THOROUGH else 10
)


def test_a_run_that_does_not_end_is_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr("tests.laws.test_machine.DEADLINE", 0.05)
    ended = threading.Event()
    with pytest.raises(AssertionError, match="has not ended"):
        together(lambda: ended.wait(10))
    ended.set()


def test_runs_that_would_wait_for_each_other_are_refused():
    """Each of two threads holds a model and asks, from inside a hook, for the other's: one of them is told."""
    a, b = models()
    before, both = [footprint(model.pipe) for model in models()], threading.Barrier(2)

    class Crossing(sdprobe.Observer):
        def __init__(self, other):
            self.other = other

        def latents(self, x, step):
            if step.index == 0:
                both.wait(DEADLINE)
                run(self.other)

    found = together(lambda: run(a, Crossing(b)), lambda: run(b, Crossing(a)))
    (refused,) = [one for one in found if isinstance(one, RuntimeError)]
    assert "would wait for each other forever" in str(refused)
    (made,) = [one for one in found if isinstance(one, sdprobe.Run)]
    assert same_run(made, run(made.model))
    assert [footprint(model.pipe) for model in models()] == before
