"""The table of pipelines that can be attached to, in the docs."""

from __future__ import annotations

import diffusers
import pytest

from sdprobe.model.loading import FAMILIES
from tests.attached_pipelines import PAGE, table, with_table
from tests.further_stock_pipelines import FURTHER
from tests.stock_pipelines import OTHERS, STOCK


def test_the_page_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert table() in page, "write it anew: python -m tests.attached_pipelines"
    assert with_table(page) == page


@pytest.mark.slow
def test_each_of_them_is_tried():
    """By a tiny pipeline of its class, among the tests of `attach`."""
    tried = {type(make().pipe).__name__ for make in (*STOCK, *OTHERS, *FURTHER)}
    families = [own for own in FAMILIES if own.__module__.startswith("sdprobe.")]
    named = {name for own in families for name in own.variants if hasattr(diffusers, name)}
    assert named <= tried
