"""Every built-in hook on every family, by `sample` and by `attach`, as the docs say."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import Transform
from tests.grid import PAGE, SHOWN, grid, hooks, page


@pytest.fixture(scope="module")
def found():
    return grid()


def test_both_ways_come_to_the_same(found):
    assert set(found) == set(hooks())
    unequal = [(name, family) for name, pairs in found.items() for family in SHOWN if not pairs[family].agrees]
    assert unequal == []


def test_what_works_acts(found):
    """A transform that works changes the run, an observer never does."""
    kinds = {name: sdprobe.registry.names()[name].load() for name in found}
    for name, pairs in found.items():
        working = [pair for pair in pairs.values() if pair.reason is None]
        assert all(pair.acts == issubclass(kinds[name], Transform) for pair in working), name
        assert working, name


def test_what_cannot_work_says_why(found):
    reasons = {pair.reason for pairs in found.values() for pair in pairs.values() if pair.reason is not None}
    assert all(len(reason.split()) >= 5 for reason in reasons)


def test_the_page_is_current(found):
    assert PAGE.read_text(encoding="utf-8") == page(found), "write it anew: python -m tests.grid"
