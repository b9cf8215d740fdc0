"""Distances are equations and bounds: symmetric where they should be, and no less than their statistics say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdprobe.runs.comparison.distances import (
    cosine,
    map_distance,
    picture_distance,
    relative_distance,
    rounding_limit,
    statistics_distance,
    verdict_of,
)

numbers = st.floats(-100, 100, width=32)
tensors = st.integers(2, 12).flatmap(lambda n: st.tuples(*[st.lists(numbers, min_size=n, max_size=n)] * 2))
maps = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def rms(x):
    return float(x.double().square().mean().sqrt())


@given(tensors)
def test_a_relative_distance_is_that_of_its_equation(pair):
    a, b = (torch.tensor(own, dtype=torch.float64) for own in pair)
    found = relative_distance(a, b)
    if torch.equal(a, b):
        assert found == 0
    elif not rms(a):
        assert found == math.inf
    else:
        assert found == pytest.approx(rms(b - a) / rms(a))
        if rms(b):  # what is not symmetric is only what it is relative to
            assert found * rms(a) == pytest.approx(relative_distance(b, a) * rms(b))


@given(tensors)
def test_a_cosine_is_symmetric(pair):
    a, b = map(torch.tensor, pair)
    one, other = cosine(a, b), cosine(b, a)
    assert one == pytest.approx(other, nan_ok=True)
    assert math.isnan(one) or -1 <= one <= 1


@given(tensors)
def test_statistics_give_the_least_distance(pair):
    a, b = (torch.tensor(own, dtype=torch.float64) for own in pair)
    least = statistics_distance(*((float(x.mean()), float(x.std()), float(x.norm())) for x in (a, b)))
    assert least <= relative_distance(a, b) * (1 + 1e-6) + 1e-9
    assert statistics_distance((1.0, 2.0, 3.0), (1.0, 2.0, 3.0)) == 0


def test_statistics_give_the_distance_of_a_multiple():
    a = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    least = statistics_distance(*((float(x.mean()), float(x.std()), float(x.norm())) for x in (a, 3 * a)))
    assert least == pytest.approx(relative_distance(a, 3 * a)) == pytest.approx(2.0)


@given(maps)
def test_the_distance_of_maps_is_a_total_variation(pairs):
    p, q = torch.tensor(pairs, dtype=torch.float64).T
    found = map_distance(p, q)
    assert 0 <= found <= 1 + 1e-12
    assert found == map_distance(q, p)
    if p.sum() > 1e-9 and q.sum() > 1e-9:
        normal = p / p.sum(), q / q.sum()
        total_variation = 0.5 * float((normal[0] - normal[1]).abs().sum())
        assert map_distance(*normal) == pytest.approx(total_variation, abs=1e-12)


def test_maps_apart_are_at_distance_1_and_a_weaker_map_is_told_from_an_equal_one():
    p = torch.tensor([0.2, 0.3, 0.0])
    assert map_distance(p, torch.tensor([0.0, 0.0, 0.7])) == 1
    assert map_distance(p, p / 3) == pytest.approx(0.5)  # (1 - 1/3) / (1 + 1/3)
    assert cosine(p, p / 3) == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_in_both_is_equal_and_in_one_is_infinitely_far(value):
    a, b = torch.tensor([1.0, value]), torch.tensor([1.0, 2.0])
    assert relative_distance(a, a.clone()) == 0
    assert relative_distance(a, b) == relative_distance(b, a) == math.inf
    # The size of a is that of its finite numbers, 1 and 0 in the place of the other; so is the difference.
    assert relative_distance(a, torch.tensor([1.5, value])) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_few_eps_are_rounding_and_a_tenth_is_not(dtype):
    limit, eps = rounding_limit(dtype), torch.finfo(dtype).eps
    assert verdict_of(0.0, limit) == "equal"
    assert verdict_of(4 * eps, limit) == "rounding"
    assert verdict_of(0.1, limit) == "different"
    assert rounding_limit(dtype, torch.float64) == limit


@pytest.mark.parametrize(("level", "said"), [(100, "equal"), (101, "rounding"), (102, "different")])
def test_a_picture_is_rounded_by_one_level(level, said):
    a, b = (Image.new("RGB", (4, 4), (100, own, 30)) for own in (100, level))
    assert picture_distance([a], [b])[2] == said
