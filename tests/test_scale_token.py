"""`ScaleToken`: 1 is the identity, and factors multiply."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sdprobe import ScaleToken
from tests.laws.strategies import run, same_run

powers_of_two = st.sampled_from([0.25, 0.5, 2.0, 4.0])  # they multiply without rounding


def test_one_is_the_identity(tiny):
    assert same_run(run(tiny, ScaleToken("red", 1.0)), run(tiny))


@given(a=powers_of_two, b=powers_of_two)
def test_factors_multiply(tiny, a, b):
    assert same_run(run(tiny, ScaleToken("red", a), ScaleToken("red", b)), run(tiny, ScaleToken("red", a * b)))
