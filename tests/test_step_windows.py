"""Windows of steps: their names, and what is refused."""

import pytest

from sdprobe.experiments.step_windows import step_windows


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 50])
def test_the_quarters_have_every_step_once(total):
    whole, *parts = step_windows(None, total).values()
    assert whole == tuple(range(total))
    assert [step for own in parts for step in own] == (list(whole) if total > 1 else [])
    assert all(parts)


def test_windows_have_the_names_they_are_given():
    assert step_windows({"late": [5, 4]}, 6) == {"late": (4, 5)}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ([range(9)], ValueError, "the run has 8 steps, 0 to 7, and no step 8"),
        ([[]], ValueError, "at least one step"),
        ([], ValueError, "no window of steps"),
        ([range(2), (0, 1)], ValueError, "two windows have the same steps"),
        (["all"], TypeError, "not 'all'"),
        ([[0.5]], TypeError, "whole numbers, not 0.5"),
    ],
)
def test_refused(given, error, said):
    with pytest.raises(error, match=said):
        step_windows(given, 8)
