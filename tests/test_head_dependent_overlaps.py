"""Overlaps of heads and dependents over many images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.attributions import overlaps
from sdprobe.attributions.grammar import Grammar, WordInGrammar
from sdprobe.attributions.head_dependent_overlaps import ALL, UNRELATED

WIDE = 12


def image_of(*words):
    """A grammar of words, each with its relation, its head's number, and the places of its map from a to b."""
    made = []
    for first, (relation, head, (a, b)) in enumerate(words):
        mask = torch.zeros(1, WIDE)
        mask[0, a:b] = 1
        made.append(WordInGrammar(f"w{first}", "X", relation, first, head, (first,), sdprobe.HeatMap(mask)))
    return Grammar(None, tuple(made), {}, size=(1, WIDE))


NOUN = ("ROOT", 0, (0, 4))


def test_means_are_over_images_of_the_means_of_their_pairs():
    several = image_of(NOUN, ("amod", 0, (0, 4)), ("amod", 0, (2, 6)), ("det", 0, (8, 10)))
    one = image_of(NOUN, ("amod", 0, (0, 2)))
    found = overlaps([several, one])
    assert found["amod"].pairs == 3
    assert found["amod"].images == 2
    assert found["amod"].iod.value == pytest.approx(((1 + 2 / 4) / 2 + 2 / 2) / 2)
    assert found["amod"].ioh.value == pytest.approx(((1 + 2 / 4) / 2 + 2 / 4) / 2)
    assert found["amod"].iou.value == pytest.approx(((1 + 2 / 6) / 2 + 2 / 4) / 2)
    assert found["det"].iou.value == 0
    assert [own.relation for own in found.relations] == [UNRELATED, ALL, "amod", "det"]


def test_the_control_is_of_words_that_are_not_related():
    """Related words share their places, unrelated ones none."""
    halves = [NOUN, ("amod", 0, (0, 4)), ("conj", 0, (0, 4)), ("amod", 2, (0, 4))]
    grammars = [image_of(*halves) for _ in range(5)]
    apart = [image_of(NOUN, ("amod", 0, (0, 4)), ("prep", 1, (0, 4)), ("pobj", 2, (6, 9))) for _ in range(5)]
    assert overlaps(grammars)[UNRELATED].iou.value == 1
    found = overlaps(apart)
    drawn = {frozenset((a.text, b.text)) for own in apart for a, b in own.unrelated}
    assert drawn == {frozenset(own) for own in (("w0", "w2"), ("w0", "w3"), ("w1", "w3"))}
    assert found[UNRELATED].pairs == 15
    assert found["amod"].over_unrelated.value == pytest.approx(1 - found[UNRELATED].iou.value)


def test_the_draw_is_by_the_seed():
    several = [image_of(NOUN, *[("dep", 0, (k, k + 4)) for k in range(6)]) for _ in range(4)]
    a, again, b = (overlaps(several, seed)[UNRELATED].iou.value for seed in (0, 0, 1))
    assert a == again != b


def test_a_prompt_without_unrelated_words_has_no_control():
    found = overlaps([image_of(NOUN, ("amod", 0, (0, 2)))])
    assert found[UNRELATED].images == found["amod"].over_unrelated.cases == 0
    assert np.isnan(found[UNRELATED].iou.value)


def test_table_frame_and_figure():
    found = overlaps([image_of(NOUN, ("amod", 0, (0, k)), ("det", 1, (2, 6))) for k in range(1, 6)])
    assert [line.split("  ")[0] for line in repr(found).splitlines()[1:]] == [own.relation for own in found.relations]
    frame = found.to_pandas().set_index("relation")
    assert frame.loc["amod", "iod"] == found["amod"].iod.value
    assert frame.loc["amod", "over_unrelated_high"] == found["amod"].over_unrelated.high
    assert [ax.get_xlabel() for ax in found.plot("title").axes] == ["mIoD", "mIoH", "mIoU"]
    with pytest.raises(KeyError, match="'nsubj'; there are unrelated words"):
        found["nsubj"]


def test_grammars_without_pairs_are_refused():
    with pytest.raises(ValueError, match="no pair"):
        overlaps([image_of(NOUN)])
