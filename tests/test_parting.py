"""The parting is the first jump: rounding that grows from step to step is told from it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.runs.comparison.distances import Distance, rounding_limit, verdict_of
from sdprobe.runs.comparison.parting import GROWTH, find_parting

LIMIT = rounding_limit(torch.float32)


def of_steps(*distances: float, quantity: str = "latents") -> list[Distance]:
    return [
        Distance(quantity, step, "", 0, "", "", own, 1.0, verdict_of(own, LIMIT), LIMIT)
        for step, own in enumerate(distances)
    ]


@given(st.integers(0, 8), st.floats(1e-5, 1e3))
def test_the_first_difference_after_equal_values_is_the_parting(k, distance):
    found = find_parting(of_steps(*[0.0] * k, distance, 5.0), {})
    assert (found.outcome, found.at.step, found.before, found.is_first) == ("parted", k, 0.0, k == 0)
    assert found.text.startswith(f"part at step {k}, at latents (distance ")
    assert found.text.endswith("before it they are equal to the last bit" if k else "before it nothing was compared")


@given(st.lists(st.floats(0, LIMIT), min_size=1, max_size=9))
def test_rounding_alone(distances):
    found = find_parting(of_steps(*distances), {})
    assert found.outcome == ("rounding" if any(distances) else "equal")
    if any(distances):
        assert f"at most {max(distances):.1e}" in found.text


@given(st.floats(1.0, GROWTH * 0.99), st.integers(2, 12))
def test_rounding_that_grows_is_no_parting(factor, steps):
    grown = [1e-7 * factor**i for i in range(steps)]
    found = find_parting(of_steps(*grown), {})
    assert found.outcome == ("grown" if max(grown) > LIMIT else "rounding")
    if found.outcome == "grown":
        assert found.text.startswith("drift apart without a jump: rounding, the first at step 0, at latents")
        assert found.at.distance == next(own for own in grown if own > LIMIT)


@given(st.integers(1, 8), st.floats(1.0, 3.0))
def test_a_jump_is_found_after_rounding_that_grew(k, factor):
    grown = [1e-7 * factor**i for i in range(k)]
    found = find_parting(of_steps(*grown, 0.5, 0.6), {})
    assert (found.outcome, found.at.step) == ("parted", k)
    assert found.text.endswith(f"before it they are equal but for rounding (at most {max(grown):.1e})")


def test_rounding_may_grow_within_a_step_too():
    values = [*of_steps(3e-6), *of_steps(2e-5, quantity="noise_pred")]
    assert find_parting(values, {}).outcome == "grown"
    values = [*of_steps(3e-6), *of_steps(1e-2, quantity="noise_pred")]
    assert find_parting(values, {}).outcome == "parted"


def test_nothing_compared():
    assert find_parting([], {}).text == "nothing could be compared"


@pytest.mark.parametrize(
    ("differ", "said"),
    [({1}, "in image 1 of 3"), ({0, 2}, "in images 0, 2 of 3"), ({0, 1, 2}, "in every image")],
)
def test_the_images_that_part_are_said(differ, said):
    values = [own._replace(image=i) for i in range(3) for own in of_steps(0.3 if i in differ else 0.0)]
    assert said in find_parting(values, {}).text
