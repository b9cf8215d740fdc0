"""The table of families and pipelines is what the tests find, and nothing in it fails."""

from __future__ import annotations

import pytest

from tests.family_table import PAGE, lines, page


@pytest.mark.slow
def test_the_page_is_current():
    found = lines()
    failed = [line for line in found if False in (line.sample, line.attach, line.maps, line.activations)]
    assert failed == []
    assert PAGE.read_text(encoding="utf-8") == page(found), "write it anew: python -m tests.family_table"
