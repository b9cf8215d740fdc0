"""`possible_grids`: the grids of a run's sites, of those asked for."""

from __future__ import annotations

import pytest

from sdprobe.core.possible_grids import as_grids, possible_grids
from tests.laws.strategies import run


def test_grids_that_are_asked_for_are_among_those_of_the_sites(embedded):
    found = run(embedded, height=72, width=64, steps=1)
    every = possible_grids(found, None)
    assert {(18, 16), (9, 8), (5, 4)} <= set(every)
    assert set(possible_grids(found, as_grids([16, (9, 8)]))) == {(9, 8)}
    with pytest.raises(ValueError, match=r"no site can have a grid of \[\(3, 3\)\]; at this size they are among"):
        possible_grids(found, as_grids([3]))
