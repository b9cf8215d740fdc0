"""The table of pipelines that can be attached to, in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from sdprobe.model.loading import FAMILIES
from tests.attached_pipelines import PAGE, table, with_table

HERE = Path(__file__).parent


def test_the_page_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert table() in page, "write it anew: python -m tests.attached_pipelines"
    assert with_table(page) == page


def test_each_of_them_is_tried():
    """A tiny pipeline of its class is made among the tests."""
    made = "\n".join(path.read_text() for path in (*HERE.glob("*stock_pipelines.py"), *HERE.glob("tiny_models/*.py")))
    families = [own for own in FAMILIES if own.__module__.startswith("sdprobe.")]
    missing = [name for own in families for name in own.variants if not re.search(rf"\b{name}\b", made)]
    assert missing == []
