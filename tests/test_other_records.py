"""What two runs recorded and is not compared is named, and not said to be missing."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import AttentionMatrices, AttentionQueries, ConceptOutputs, SelfAttentionMaps, WordGradients, compare
from sdprobe.core.hook import overrides
from tests.laws.strategies import run


@pytest.mark.parametrize(
    "hook",
    [
        AttentionMatrices(grids=[4]),
        AttentionQueries(),
        SelfAttentionMaps(),
        ConceptOutputs(["red", "circle"]),
        WordGradients(["red"]),
    ],
)
def test_records_that_are_not_compared_are_named(tiny, hook, tmp_path):
    a, b = run(tiny, hook, steps=1), run(tiny, steps=1)
    opened = sdprobe.open(a.save(tmp_path / "a"))
    for pair, by in (((a, opened), "both"), ((a, b), "a only"), ((b, opened), "b only")):
        notes = compare(*pair).notes
        assert f"{hook!r}: recorded by {by}, and not compared" in notes
        (attention,) = (note for note in notes if "AttentionMaps(keep=" in note)
        seen = "maps of attention" if overrides(hook, "attention") else "attention"
        assert attention.startswith(f"{seen}: recorded by neither")


def test_a_bar_records_nothing(tiny):
    bare = run(tiny, steps=1, progress=True)
    assert not [note for note in compare(bare, bare).notes if "not compared" in note]
