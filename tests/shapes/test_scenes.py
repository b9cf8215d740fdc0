"""Scenes: pixels, masks, captions and objects say the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.shapes.caption_truth import claims, facts, truth
from sdprobe.shapes.captions import RELATIONS, relation
from sdprobe.shapes.drawing import BACKGROUNDS, COLOURS, SHAPES, Object, coverage
from sdprobe.shapes.scenes import pair, render, scene

seeds = st.integers(0, 10**9)
counts = st.integers(1, 3)


@given(seeds, counts)
def test_same_seed_same_scene(seed: int, count: int) -> None:
    first, second = scene(seed, objects=count), scene(seed, objects=count)
    assert (first.image == second.image).all()
    assert (first.statement, first.objects) == (second.statement, second.objects)


@given(seeds, counts)
def test_masks_hold_their_colour_and_nothing_else_does(seed: int, count: int) -> None:
    own = scene(seed, objects=count)
    assert own.masks.shape == (count, 64, 64)
    assert (own.masks.sum(0) <= 1).all()
    for thing, mask in zip(own.objects, own.masks, strict=True):
        inside = mask & (coverage(thing) == 1)
        assert inside.any()
        assert np.abs(own.image[inside].astype(float) - np.asarray(thing.rgb)).max() <= 8
    ground = np.all([coverage(thing) == 0 for thing in own.objects], axis=0)
    assert np.ptp(own.image[ground].astype(int), axis=-1).max() == 0, "backgrounds are grey"


@given(seeds, counts)
def test_objects_do_not_touch_and_stay_inside(seed: int, count: int) -> None:
    own = scene(seed, objects=count)
    border = np.ones((64, 64), bool)
    border[1:-1, 1:-1] = False
    assert not (own.masks & border).any()


@given(seeds, counts)
def test_caption_is_true(seed: int, count: int) -> None:
    own = scene(seed, objects=count)
    said = own.statement
    for thing, mention in zip(own.objects, said.mentions, strict=True):
        assert mention.colour in (None, thing.colour)
        assert mention.shape in (None, thing.shape)
        assert mention.size in (None, thing.size)
        assert said.words[mention.shape_word] == (mention.shape or "shape")
        if mention.colour_word is not None:
            assert said.words[mention.colour_word] == mention.colour
    if said.relation:
        assert said.relation == relation(*own.objects)
        assert any(" ".join(words) in own.caption for words in RELATIONS[said.relation])
    assert said.background in (None, own.background)
    assert own.caption.split() == " ".join(said.words).replace(" ,", ",").split()


@given(seeds, counts)
def test_full_captions_name_every_object_apart(seed: int, count: int) -> None:
    own = scene(seed, objects=count, full=True)
    assert all(m.colour and m.shape for m in own.statement.mentions)
    assert len({o.colour for o in own.objects}) == count


@given(seeds)
def test_truth_matrix(seed: int) -> None:
    first, second = pair(seed)
    true = truth(facts([first, second]), claims([first.statement, second.statement]))
    assert true.diagonal().all()
    full = [scene(seed + k, objects=2, full=True) for k in range(4)]
    true = truth(facts(full), claims([own.statement for own in full]))
    same = [
        [{(o.shape, o.colour) for o in a.objects} == {(o.shape, o.colour) for o in b.objects} for b in full]
        for a in full
    ]
    assert (np.asarray(same) | ~true).all(), "a full caption of two objects is false of other objects"


def test_opposite_relation_is_false() -> None:
    left = render([Object("circle", "red", (16, 32), 10), Object("star", "blue", (48, 32), 10)])
    right = render([Object("circle", "red", (48, 32), 10), Object("star", "blue", (16, 32), 10)])
    true = truth(facts([left, right]), claims([left.statement, right.statement]))
    assert true.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_chosen_scene(shape: str, background: str) -> None:
    own = render([Object(shape, "orange", (30, 34), 13)], background)
    assert own.caption == f"an orange {shape} on a {background} background"
    assert (own.image[own.masks[0] & (coverage(own.objects[0]) == 1)] == COLOURS["orange"]).all()


def test_later_objects_cover_earlier_ones() -> None:
    own = render([Object("square", "red", (32, 32), 16), Object("circle", "blue", (32, 32), 8)])
    assert own.image[32, 32].tolist() == list(COLOURS["blue"])
    assert not own.masks[0, 32, 32]
    assert own.masks[1, 32, 32]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Object("hexagon", "red", (1, 1), 5), "hexagon.*circle"),
        (lambda: Object("circle", "brown", (1, 1), 5), "brown.*red"),
        (lambda: Object("circle", None, (1, 1), 5), "rgb"),
        (lambda: render([Object("circle", "red", (9, 9), 5)], "plaid"), "plaid.*white"),
        (lambda: render([]), "at least one"),
        (lambda: scene(0, objects=4), "not 4"),
    ],
)
def test_mistakes_are_named(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
