"""`CurveResult`: curves and areas of a made-up table, of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from sdprobe.experiments.curve_result import CurveResult
from sdprobe.experiments.insertion import InsertionResult

SHARES = (0.1, 0.5, 1.0)
SLOPES = {"hottest first": 10.0, "coldest first": 2.0, "a random field": 5.0}


def table(cases=12, lacking=()):
    """In every case and order the value grows in proportion to the share, with an own height for each case."""
    high = np.random.default_rng(0).normal(1, 0.2, cases)
    rows = []
    for k in range(cases):
        rows.append({"case": k, "condition": "untouched", "control": False, "measure": "change", "value": 0.0})
        for order, slope in SLOPES.items():
            for share in SHARES:
                own = {"case": k, "condition": f"{order}, {share:g}", "control": order != "hottest first"}
                value = None if (k, order, share) in lacking else slope * share * high[k]
                rows.append(own | {"order": order, "share": share, "measure": "change", "value": value})
    return rows, high


def test_curves_are_the_means_and_begin_with_the_untouched():
    rows, high = table()
    result = CurveResult(rows, [None] * 12)
    assert result.orders == tuple(SLOPES)
    for order, slope in SLOPES.items():
        shares, means = result.curve(order, "change")
        assert shares == (0.0, *SHARES)
        assert [own.value for own in means] == pytest.approx([slope * share * high.mean() for share in shares])
        assert all(own.low <= own.value <= own.high for own in means)


def test_areas_are_the_mean_heights_and_their_paired_differences():
    rows, high = table()
    areas = CurveResult(rows, [None] * 12).areas("change")
    for order, slope in SLOPES.items():
        assert areas[order].height.value == pytest.approx(slope / 2 * high.mean())
        assert areas[order].difference.value == pytest.approx((slope - 10) / 2 * high.mean())
    assert areas["coldest first"].difference.excludes(0)
    assert areas["hottest first"].difference[:3] == (0, 0, 0)


def test_a_case_that_lacks_a_value_is_left_out_of_what_needs_it():
    rows, high = table(lacking={(3, "coldest first", 0.5)})
    areas = CurveResult(rows, [None] * 12).areas("change")
    assert [areas[order].height.cases for order in SLOPES] == [12, 11, 12]
    assert areas["coldest first"].difference.value == pytest.approx(-4 * np.delete(high, 3).mean())


def test_of_an_insertion_the_untouched_is_the_whole_share():
    rows, _ = table()
    rows = [row for row in rows if row.get("share") != 1.0]
    shares, means = InsertionResult(rows, [None] * 12).curve("hottest first", "change")
    assert shares == (0.1, 0.5, 1.0)
    assert means[-1].value == 0


def test_what_there_is_not():
    rows, _ = table()
    result = CurveResult(rows, [None] * 12)
    with pytest.raises(KeyError, match="no order 'warmest'; the orders: hottest first, "):
        result.curve("warmest", "change")
    with pytest.raises(KeyError, match=r"no line of .*; measures: change"):
        result.curve("hottest first", "size")


def test_the_figure_shows_every_order_and_says_which_are_controls():
    rows, _ = table()
    figure = CurveResult(rows, [None] * 12, about="a table").plot()
    (ax,) = figure.axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels] == [
        "hottest first",
        "coldest first (control)",
        "a random field (control)",
    ]
    own, *others = ax.get_lines()[::-1]
    assert own.get_linestyle() == "-"
    assert all(line.get_linestyle() != "-" for line in others)
    assert len({line.get_marker() for line in ax.get_lines()}) == 3
    assert len(ax.collections) == 3  # the bands
