"""Tables line up, lose nothing, and run nothing."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.plot.table import as_html, as_text

cells = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
tables = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=5))


@pytest.mark.parametrize("align", [str.ljust, str.rjust])
@given(rows=tables)
def test_columns_stand_below_each_other(align, rows):
    lines = as_text(rows, align)
    assert [line.split() for line in lines] == [list(row) for row in rows]
    for j in range(len(rows[0])):
        width = max(len(row[j]) for row in rows)
        start = sum(max(len(row[i]) for row in rows) + 2 for i in range(j))
        assert all(line[start : start + width].strip() == row[j] for line, row in zip(lines, rows, strict=True))


@given(rows=tables, caption=cells)
def test_html_holds_every_cell_and_no_markup_of_theirs(rows, caption):
    html = as_html(rows, caption)
    shown = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html)]
    assert shown == [cell for row in rows for cell in row]
    own = {"table", "caption", "thead", "tbody", "tr", "td"}
    assert set(re.findall(r"</?(.*?)>", html)) == own
