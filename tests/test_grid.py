"""Every built-in hook on every family, by `sample` and by `attach`, as the docs say."""

from __future__ import annotations

from itertools import product

import pytest

import sdprobe
from sdprobe import Transform
from sdprobe.core import registry
from tests.attribution_grid import attribution_grid
from tests.configured import ours
from tests.families import FAMILIES
from tests.grid import PAGE, SHOWN, WAYS, grid, held, page, paired

SHORT = {("replace-token", "attach")}
"""Held to the laws among the other tests, in every family; all the others by ``make grid``."""

SLOW = ("Flux.2 klein",)
"""Families held to the laws by ``make grid`` alone: this one's encoder reads 512 tokens in 28 layers."""


@pytest.fixture(scope="module")
def found():
    return grid()


@pytest.mark.slow
def test_both_ways_come_to_the_same(found):
    assert set(found) == set(ours())
    unequal = [(name, family) for name, pairs in found.items() for family in SHOWN if not pairs[family].agrees]
    assert unequal == []


@pytest.mark.slow
def test_what_works_acts(found):
    """A transform that works changes the run, an observer never does."""
    kinds = {name: registry.names()[name].load() for name in found}
    for name, pairs in found.items():
        working = [pair for pair in pairs.values() if pair.reason is None]
        assert all(pair.acts == issubclass(kinds[name], Transform) for pair in working), name
        assert working, name


@pytest.mark.slow
def test_what_cannot_work_says_why(found):
    reasons = {pair.reason for pairs in found.values() for pair in pairs.values() if pair.reason is not None}
    assert all(len(reason.split()) >= 5 for reason in reasons)


@pytest.mark.slow
def test_the_page_is_current(found):
    """It holds what methods of attribution do on planted truth too."""
    attributed = attribution_grid(SHOWN)
    assert PAGE.read_text(encoding="utf-8") == page(found, attributed), "write it anew: python -m tests.grid"


@pytest.mark.parametrize(
    ("family", "name", "way"),
    [
        pytest.param(family, name, way, marks=() if (name, way) in SHORT and family not in SLOW else pytest.mark.grid)
        for family, name, way in product(SHOWN, ours(), WAYS)
    ],
)
def test_what_works_keeps_the_laws_and_what_does_not_is_refused_by_them_too(family, name, way):
    reason = paired(sdprobe.load(FAMILIES[family]()), name).reason
    report = held(family, name, way)
    if reason is None:
        report.raise_for_failures()
    else:
        assert any(reason in finding.why for finding in report.failures)
