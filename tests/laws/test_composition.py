"""How hooks compose: the algebra promised in the docs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import Hooks, Transform
from sdprobe.core.hook import POINTS

from .strategies import affine, builtin, hooks, identities, observers, points, run, same_run, same_values, seen, stacks
from .strategies import transforms as transforms_

affines = st.lists(st.tuples(st.sampled_from([0.5, 1.3]), st.sampled_from([0.0, 0.7])), max_size=3)


@given(a=hooks, b=hooks, c=hooks)
def test_hooks_is_associative_with_an_identity(a, b, c):
    assert Hooks(a, Hooks(b, c)) == Hooks(Hooks(a, b), c) == Hooks(a, b, c)
    assert Hooks(Hooks(), a) == Hooks(a, Hooks()) == Hooks(a)
    assert len(Hooks()) == 0


@given(given_stack=stacks, cut=st.integers(0, 4))
def test_nesting_does_not_change_a_run(tiny, given_stack, cut):
    flat = run(tiny, *given_stack)
    nested = run(tiny, Hooks(*given_stack[:cut]), Hooks(Hooks(), *given_stack[cut:]))
    assert same_run(flat, nested)


@given(point=st.sampled_from([p for p in POINTS if p != "attention"]), a=affines, b=affines, seed=st.integers(0, 99))
def test_passing_through_both_is_passing_through_one_then_the_other(point, a, b, seed):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    left, right = (Hooks(*(affine(point, *numbers) for numbers in each)) for each in (a, b))
    together, place = Hooks(left, right), object()
    one_then_other = getattr(right, point)(getattr(left, point)(x, place), place)
    assert torch.equal(getattr(together, point)(x, place), one_then_other)


@given(point=points, numbers=st.lists(st.tuples(st.sampled_from([0.5, 2.0]), st.sampled_from([0.0, 1.0])), max_size=3))
def test_transforms_at_one_point_act_in_the_order_given(tiny, point, numbers):
    """Passing through Hooks(*a, *b) is passing through a, then through b: the fold of the transforms."""
    each = run(tiny, *(affine(point, a, b) for a, b in numbers))
    folded_a, folded_b = 1.0, 0.0
    for a, b in numbers:
        folded_a, folded_b = folded_a * a, folded_b * a + b
    if numbers:
        # Powers of two and small sums are exact in floating point except where they meet other numbers' last bits.
        at_once = run(tiny, affine(point, folded_a, folded_b))
        assert each.latents.allclose(at_once.latents, rtol=1e-3, atol=1e-3, equal_nan=True)
    else:
        assert same_run(each, run(tiny))


@given(a=transforms_, b=transforms_)
def test_transforms_at_different_points_commute(tiny, a, b):
    if a.point != b.point:
        assert same_run(run(tiny, a, b), run(tiny, b, a))


@given(stack=st.lists(transforms_, max_size=2), same=identities, at=st.integers(0, 2))
def test_an_identity_transform_is_exact_at_any_point(tiny, stack, same, at):
    assert same_run(run(tiny, *stack), run(tiny, *stack[:at], same, *stack[at:]))


@given(stack=stacks, observer=observers, places=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_observers_change_nothing_and_may_stand_anywhere(tiny, stack, observer, places):
    i, j = (min(place, len(stack)) for place in places)
    without = run(tiny, *stack)
    at_i = run(tiny, *stack[:i], observer, *stack[i:])
    at_j = run(tiny, *stack[:j], observer, *stack[j:])
    assert same_run(without, at_i)
    assert same_values(at_i[observer].values, at_j[observer].values)


@given(stack=st.lists(st.one_of(observers, builtin), max_size=3), observer=observers)
def test_an_observer_sees_the_same_among_others_as_alone(tiny, stack, observer):
    changing = [hook for hook in stack if isinstance(hook, Transform)]
    alone = run(tiny, *changing, observer)
    assert same_values(alone[observer].values, run(tiny, observer, *stack)[observer].values)


@given(stack=stacks, observer=observers)
def test_a_second_run_equals_the_first_and_keeps_nothing_of_it(tiny, stack, observer):
    first = run(tiny, *stack, observer)
    kept = [value.clone() for value in first[observer].values]
    second = run(tiny, *stack, observer)
    assert same_run(first, second)
    assert same_values(first[observer].values, kept)
    assert same_values(first[observer].values, second[observer].values)
    assert "values" not in vars(observer)


@given(transform=transforms_)
def test_an_observer_sees_what_the_transforms_made(tiny, transform):
    watcher = seen(transform.point)
    values = run(tiny, watcher, transform)[watcher].values
    if transform.point == "image":
        assert len(values) == 1
    plain = run(tiny, watcher)[watcher].values
    assert not same_values(values[:1], plain[:1])
