"""Intervals over cases."""

import numpy as np
import pytest

from sdprobe.experiments import bootstrap
from sdprobe.experiments.bootstrap import mean_with_interval

DRAWS = {
    "normal": (lambda random: random.normal(0.3, 1.0, 100), 0.3),
    "skewed": (lambda random: random.exponential(2.0, 100), 2.0),
    "paired answers": (lambda random: (random.random(100) < 0.2) - 1.0 * (random.random(100) < 0.6), -0.4),
}


def covered(draw, truth, draws, resamples, monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", resamples)
    found = (mean_with_interval(draw(np.random.default_rng(k)), seed=k) for k in range(draws))
    return np.mean([not own.excludes(truth) for own in found])


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWS)
def test_covers_a_known_truth_in_95_of_100(kind, monkeypatch):
    """1,000 synthetic draws of 100 cases each."""
    assert abs(covered(*DRAWS[kind], 1000, 1000, monkeypatch) - 0.95) <= 0.02


def test_covers_a_known_truth(monkeypatch):
    assert 0.89 <= covered(*DRAWS["normal"], 200, 300, monkeypatch) <= 0.99


def test_pairs_are_drawn_together():
    """A difference that is the same in every case is known exactly, however much the cases differ."""
    random = np.random.default_rng(0)
    plain = random.normal(0, 100, 30)
    own = mean_with_interval((plain + 2.0) - plain)
    assert own.low == pytest.approx(2.0)
    assert own.high == pytest.approx(2.0)
    both = mean_with_interval(plain + 2.0)
    assert both.high - both.low > 30


def test_all_alike_is_not_certain_where_values_are_bounded():
    own = mean_with_interval(np.zeros(100), bounded=True)
    assert own.high == pytest.approx(1 - 0.025**0.01)
    assert own.low == -own.high
    ones = mean_with_interval(np.ones(100), bounded=True)
    assert (ones.low, ones.high) == (pytest.approx(1 - own.high), 1.0)


def test_missing_values_are_left_out_and_counted():
    values = np.array([1.0, np.nan, 3.0, np.inf, 2.0])
    assert mean_with_interval(values) == mean_with_interval(np.array([1.0, 3.0, 2.0]))
    assert mean_with_interval(values).cases == 3
    nothing = mean_with_interval(np.array([np.nan]))
    assert nothing.cases == 0
    assert np.isnan(nothing.value)


def test_of_one_case_there_is_no_interval():
    own = mean_with_interval(np.array([3.0]))
    assert (own.value, own.cases) == (3.0, 1)
    assert np.isnan(own.low)
    assert not own.excludes(0.0)
