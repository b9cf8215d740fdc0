"""The laws of limits: they are sets of places, and a limited hook acts on what they have in common."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import sdprobe
from sdprobe import Hooks, ReplaceToken, after, every, only, when
from tests.laws.strategies import TENSOR_POINTS, affine, run, same_run, same_values, seen, within

STEPS = 3
chosen = st.sets(st.integers(0, STEPS - 1), min_size=1)
hooks = st.one_of(
    st.builds(
        affine, st.sampled_from(("latents", "attention", "activation", "model_output")), st.just(0.9), st.just(0.25)
    ),
    st.builds(ReplaceToken, st.just("circle"), st.sampled_from(["star", "blue"])),
)
limits = st.one_of(
    st.builds(lambda k: (after(k), set(range(k, STEPS))), st.integers(0, STEPS - 1)),
    st.builds(lambda k: (every(k), set(range(0, STEPS, k))), st.integers(1, STEPS)),
    st.builds(lambda own: (when(lambda step: step.index in own), own), chosen),
    st.builds(lambda own: (lambda hook: only(hook, steps=own), own), chosen),
)


def made(tiny, *given, **settings):
    return run(tiny, *given, steps=STEPS, **settings)


def test_no_limit_is_the_hook_itself():
    hook = sdprobe.LatentRecorder()
    assert only(hook) is hook
    assert only(only(hook)) is hook


@given(hook=hooks)
def test_everything_allowed_is_the_hook(tiny, hook):
    everything = {"steps": range(STEPS), "rows": range(2)}
    if not hasattr(hook, "point") or hook.point in ("attention", "activation"):
        everything["sites"] = "*"
    settings = {"prompt": ["a red circle", "a circle"]}
    assert same_run(made(tiny, only(hook, **everything), **settings), made(tiny, hook, **settings))


@given(hook=hooks, limit=limits)
def test_a_named_limit_is_only_by_another_name(tiny, hook, limit):
    combinator, steps = limit
    assert same_run(made(tiny, combinator(hook)), made(tiny, only(hook, steps=steps)))


@given(hook=hooks, a=limits, b=limits)
def test_a_limit_within_a_limit_is_both_in_either_order(tiny, hook, a, b):
    assume(a[1] & b[1])
    both = made(tiny, only(hook, steps=a[1] & b[1]))
    assert same_run(made(tiny, a[0](b[0](hook))), both)
    assert same_run(made(tiny, b[0](a[0](hook))), both)


@given(point=st.sampled_from(TENSOR_POINTS[2:]), a=limits, b=limits)
def test_an_observer_within_two_limits_sees_what_both_let_it(tiny, point, a, b):
    assume(a[1] & b[1])
    nested, plain = seen(point), seen(point)
    result = made(tiny, a[0](b[0](nested)), only(plain, steps=a[1] & b[1]))
    assert same_values(result[nested].values, result[plain].values)


@given(a=hooks, b=hooks, limit=limits)
def test_limits_distribute_over_hooks(tiny, a, b, limit):
    together, apart = limit[0](Hooks(a, b)), Hooks(limit[0](a), limit[0](b))
    assert repr(together) == repr(apart)
    assert same_run(made(tiny, together), made(tiny, apart))


@given(hook=hooks, k=st.integers(1, STEPS - 1))
def test_before_and_after_make_the_whole(tiny, hook, k):
    before = only(hook, steps=range(k))
    assert same_run(made(tiny, before, after(k)(hook)), made(tiny, hook))
    assert same_run(made(tiny, after(k)(hook), before), made(tiny, hook))


@given(a=hooks, b=hooks, steps=chosen)
def test_hooks_limited_to_different_steps_commute(tiny, a, b, steps):
    a, b = only(a, steps=steps), within(b, steps=set(range(STEPS)) - steps)
    assert same_run(made(tiny, a, b), made(tiny, b, a))


def test_limits_print_as_they_are_written():
    hook = sdprobe.ScalePrompt(0.5)
    assert repr(after(3)) == "after(3)"
    assert repr(after(3)(hook)) == "after(3)(ScalePrompt(0.5))"
    assert repr(only(every(2)(hook), rows=[0])) == "only(every(2)(ScalePrompt(0.5)), rows=[0])"
    assert repr(when(calm)(Hooks(hook))) == "Hooks(when(calm)(ScalePrompt(0.5)))"


def calm(step):
    return step.sigma < 1


def test_what_is_no_limit_is_refused():
    with pytest.raises(ValueError, match="a whole number from 0 on, not -1"):
        after(-1)
    with pytest.raises(ValueError, match="a whole number from 1 on, not 0"):
        every(0)
    with pytest.raises(ValueError, match="whole number"):
        after(sdprobe.LatentRecorder())
    with pytest.raises(TypeError, match="when takes a function of the Step"):
        when(3)
