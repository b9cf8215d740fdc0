"""Attention that was kept whole is compared as that which was summed."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import AttentionMaps, AttentionRecorder, compare, only
from sdprobe.runs.comparison.recorded_attention import attention_of
from tests.laws.strategies import run
from tests.test_compare_runs import SITE, Sharpen

WHOLE, SUMS = AttentionRecorder(), AttentionMaps(keep=("step", "layer"))


@pytest.fixture(scope="module")
def plain(tiny):
    return run(tiny, WHOLE, SUMS, prompt=["a red circle", "a blue star"])


@pytest.fixture(scope="module")
def other(tiny):
    return run(tiny, only(Sharpen(), sites=SITE, steps=[1]), WHOLE, SUMS, prompt=["a red circle", "a blue star"])


def test_the_same_maps_as_of_the_sums(plain):
    sums, whole = attention_of(plain)
    apart = sums.apart & whole.apart
    here, there = sums.places(apart), whole.places(apart)
    assert set(here) == set(there)
    for where in here:
        x, y = sums.summed(where, here[where]), whole.summed(where, there[where])
        assert (x.count, x.images) == (y.count, y.images) == (1, (0, 1))
        for image in x.images:
            assert x.words(image) == y.words(image)
            (named, p), (other_named, q) = x.whole(image), y.whole(image)
            assert named == other_named
            assert p.sub(q).abs().max() < 1e-6
            for word in x.words(image):
                assert x.map_of(word, image).sub(y.map_of(word, image)).abs().max() < 1e-6


def distances(comparison):
    """Distances of attention, by place."""
    return {own[1:6]: own.distance for own in comparison.table if own.quantity == "attention"}


@pytest.mark.parametrize("kept", [(WHOLE, WHOLE), (WHOLE, SUMS), (SUMS, WHOLE)])
def test_distances_are_those_of_the_sums(tiny, plain, other, kept):
    prompts = ["a red circle", "a blue star"]
    change = only(Sharpen(), sites=SITE, steps=[1])
    a, b = run(tiny, kept[0], prompt=prompts), run(tiny, change, kept[1], prompt=prompts)
    found = compare(a, b)
    assert not [note for note in found.notes if note.startswith(("attention", "maps of"))]
    assert (found.parting.at.step, found.parting.at.site) == (1, SITE)
    both, own = distances(compare(plain, other)), distances(found)
    assert own.keys() == both.keys()
    assert all(abs(both[place] - own[place]) < 1e-5 for place in both)


def test_a_folder_of_both_is_equal_to_them(plain, tmp_path):
    found = compare(plain, sdprobe.open(plain.save(tmp_path / "run")))
    assert found.parting.outcome == "equal"
    assert len(distances(found)) == len(distances(compare(plain, plain)))


def test_attention_within_the_picture_is_compared_as_a_whole(tiny):
    recorder = AttentionRecorder(kinds=["self", "cross"], columns=["text", "image"], grids=[4])
    change = only(Sharpen(), sites=SITE, steps=[0])
    found = compare(run(tiny, recorder), run(tiny, change, recorder))
    within = {own.site for own in found.table if own.quantity == "attention" and own.site.endswith("attn1")}
    assert within
    assert {own.word for own in found.table if own.site in within} == {""}
    assert found.parting.outcome == "parted"
