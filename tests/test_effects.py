"""A matrix of effects: its cells by name, and what it prints."""

import numpy as np
import pytest

from sdprobe.experiments.bootstrap import Estimate
from sdprobe.experiments.effects import Effects

CELLS = {("mid", "0–1"): Estimate(0.5, 0.2, 0.8, 4), ("up", "2–3"): Estimate(0.0, 0.0, 0.0, 4)}
EFFECTS = Effects(
    CELLS, "share", ("module", "steps"), {("up", "2–3"): 4, ("mid", "0–1"): 1}, {("up", "2–3"): 4, ("mid", "0–1"): 4}
)


def test_a_cell_that_is_not_there_is_none():
    assert np.array_equal(EFFECTS.values, [[0.5, np.nan], [np.nan, 0.0]], equal_nan=True)
    with pytest.raises(KeyError, match=r"no effect of \('mid', '2–3'\); module: mid, up; steps: 0–1, 2–3"):
        EFFECTS["mid", "2–3"]


def test_it_tells_where_nothing_changed_in_any_case():
    assert EFFECTS.did_nothing(("up", "2–3"))
    assert not EFFECTS.did_nothing(("mid", "0–1"))
    assert "nothing changed" in repr(EFFECTS)
    assert "nothing changed" in EFFECTS._repr_html_()


def test_it_is_a_data_frame():
    pytest.importorskip("pandas")
    table = EFFECTS.to_pandas()
    assert list(table.columns) == ["module", "steps", "effect", "low", "high", "cases", "unchanged"]
    assert table["effect"].tolist() == [0.5, 0.0]
    assert Effects({}, "share", ("module", "steps")).to_pandas().empty
