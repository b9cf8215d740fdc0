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
from tests.grid import NEWER, PAGE, SHOWN, WAYS, grid, held, page, paired

SHORT = {("replace-token", "attach")}
"""Held to the laws among the other tests, in every family; all the others by ``make grid``."""

IN_SHORT = {"attention-maps", "hide-tokens", "guidance", "patch", "read-layer"}
"""Held to the laws in the newer families by ``make grid``; all the others at night."""


@pytest.mark.slow
def test_every_pair_of_a_hook_and_a_family():
    found = grid()  # once for all that is asked of it
    both_ways_come_to_the_same(found)
    what_works_acts(found)
    what_cannot_work_says_why(found)
    the_page_is_current(found)


def both_ways_come_to_the_same(found):
    assert set(found) == set(ours())
    unequal = [(name, family) for name, pairs in found.items() for family, own in pairs.items() if not own.agrees]
    assert unequal == []


def what_works_acts(found):
    """A transform that works changes the run, an observer never does."""
    kinds = {name: registry.names()[name].load() for name in found}
    for name, pairs in found.items():
        working = [pair for pair in pairs.values() if pair.reason is None]
        assert all(pair.acts == issubclass(kinds[name], Transform) for pair in working), name
        assert working, name


def what_cannot_work_says_why(found):
    reasons = {pair.reason for pairs in found.values() for pair in pairs.values() if pair.reason is not None}
    assert all(len(reason.split()) >= 5 for reason in reasons)


def the_page_is_current(found):
    """It holds what methods of attribution do on planted truth too."""
    attributed = attribution_grid(SHOWN)
    assert PAGE.read_text(encoding="utf-8") == page(found, attributed), "write it anew: python -m tests.grid"


def marks_of(family, name, way):
    if family in NEWER:
        return pytest.mark.grid if name in IN_SHORT else pytest.mark.nightly
    return () if (name, way) in SHORT else pytest.mark.grid


@pytest.mark.parametrize(
    ("family", "name", "way"),
    [
        pytest.param(family, name, way, marks=marks_of(family, name, way))
        for family, name, way in product((*SHOWN, *NEWER), ours(), WAYS)
    ],
)
def test_what_works_keeps_the_laws_and_what_does_not_is_refused_by_them_too(family, name, way):
    reason = paired(sdprobe.load(FAMILIES[family]()), name).reason
    report = held(family, name, way)
    if reason is None:
        report.raise_for_failures()
    else:
        assert any(reason in finding.why for finding in report.failures)
