"""What a picture shows: on rendered scenes, whose truth is known."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from PIL import Image

import sdprobe
from sdprobe.experiments import Case, measures
from sdprobe.experiments.description import describe
from sdprobe.experiments.measures import (
    BackgroundShown,
    ColourShown,
    ObjectCount,
    ObjectOverlap,
    ObjectShown,
    RelationShown,
    ShapeShown,
)
from sdprobe.experiments.measures.measure import named
from sdprobe.shapes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Object, render, scene
from tests.pictured import BLUE_SQUARE, RED_CIRCLE, pictured

CASE = Case(
    "a red circle left of a blue square",
    words={"colour": "red", "shape": "circle", "other_colour": "blue", "other_shape": "square", "relation": "left"},
)


@pytest.fixture(scope="module")
def run(embedded):
    return sdprobe.sample(embedded, CASE.prompt, steps=2, seed=0, progress=False)


@pytest.fixture(scope="module")
def both(run):
    return pictured(run, [RED_CIRCLE, BLUE_SQUARE])


@pytest.mark.parametrize("seed", range(100, 106))
def test_of_a_scene_all_that_is_true_is_shown_and_nothing_else(run, seed):
    own = scene(seed, objects=2, full=True)
    shown = pictured(run, own.image)
    colours, shapes = {thing.colour for thing in own.objects}, {thing.shape for thing in own.objects}
    pairs = {(thing.colour, thing.shape) for thing in own.objects}
    assert {word for word in COLOURS if ColourShown(word)(shown, shown, CASE)} == colours
    assert {word for word in SHAPES if ShapeShown(word)(shown, shown, CASE)} == shapes
    every = itertools.product(COLOURS, SHAPES)
    assert {pair for pair in every if ObjectShown(*pair)(shown, shown, CASE)} == pairs
    assert [word for word in BACKGROUNDS if BackgroundShown(word)(shown, shown, CASE)] == [own.background]
    first, second = (f"{thing.colour} {thing.shape}" for thing in own.objects)
    lies = [how for how in RELATIONS if RelationShown(first, second, how)(shown, shown, CASE)]
    assert lies == [sdprobe.shapes.relation(*own.objects)]
    assert ObjectCount()(shown) == 2


def test_words_are_those_of_the_case(both):
    assert ColourShown()(both, both, CASE)
    assert ShapeShown("{other_shape}")(both, both, CASE)
    assert ObjectShown()(both, both, CASE)
    assert not ObjectShown("{colour}", "{other_shape}")(both, both, CASE)
    assert RelationShown()(both, both, CASE) is True
    with pytest.raises(ValueError, match="asks for the word of 'background'"):
        BackgroundShown()(both, both, CASE)


@pytest.mark.parametrize(("word", "opposite"), [("left", "right"), ("right", "left"), ("above", "below")])
def test_a_relation_holds_one_way_and_its_opposite_the_other(run, both, word, opposite):
    centres = {"left": ((16, 32), (48, 32)), "right": ((48, 32), (16, 32)), "above": ((32, 16), (32, 48))}[word]
    red, blue = Object("circle", "red", centres[0], 10), Object("square", "blue", centres[1], 10)
    shown = pictured(run, [red, blue])
    for way in [word, *(" ".join(own) for own in RELATIONS[word])]:
        assert RelationShown("red circle", "blue square", way)(shown, shown, CASE) is True
        assert RelationShown("square", "red", way)(shown, shown, CASE) is False
    assert RelationShown("blue", "circle", opposite)(shown, shown, CASE) is True
    assert RelationShown("green", "circle", word)(shown, shown, CASE) is None


def test_a_thing_has_no_relation_to_itself(run):
    alone = pictured(run, [RED_CIRCLE])
    assert RelationShown("red", "circle", "left")(alone, alone, CASE) is None
    two = pictured(run, [RED_CIRCLE, Object("circle", "blue", (48, 32), 9)])
    assert RelationShown("circle", "red circle", "right")(two, two, CASE) is True
    assert RelationShown("red", "circle", "left")(two, two, CASE) is True


def test_overlap_is_intersection_over_union_with_the_untouched(run, both):
    assert ObjectOverlap()(both, both, CASE) == 1
    moved = pictured(run, [Object("circle", "red", (24, 32), 12), Object("square", "blue", (50, 30), 12)])
    masks = [render([own]).masks[0] for own in (RED_CIRCLE, Object("circle", "red", (24, 32), 12))]
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert ObjectOverlap()(moved, both, CASE) == pytest.approx(expected, abs=0.03)
    recoloured = pictured(run, [Object("circle", "green", (18, 32), 12), BLUE_SQUARE])
    assert ObjectOverlap()(recoloured, both, CASE) == 0
    assert ObjectOverlap("{shape}")(recoloured, both, CASE) > 0.95
    assert ObjectOverlap("green")(recoloured, both, CASE) is None


def test_a_blank_picture_shows_nothing(run, both):
    blank = pictured(run, np.full((64, 64, 3), 243, np.uint8))
    assert ObjectCount()(blank) == 0
    assert not any(own(blank, both, CASE) for own in (ColourShown(), ShapeShown(), ObjectShown()))
    assert RelationShown()(blank, both, CASE) is None
    assert BackgroundShown("white")(blank, both, CASE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ColourShown("crimson"),
        lambda: ShapeShown("red"),
        lambda: ObjectShown("red", "hexagon"),
        lambda: ObjectShown("circle", "red"),
        lambda: RelationShown("hexagon", "red", "left"),
        lambda: RelationShown("red", "blue", "beside"),
        lambda: BackgroundShown("red"),
        lambda: ObjectOverlap("crimson"),
    ],
)
def test_words_that_cannot_be_detected_are_refused_with_the_choices(make):
    with pytest.raises(ValueError, match=r"can be detected.*(red|circle|left|white)"):
        make()


def test_so_are_those_of_a_case(both):
    case = Case("a crimson hexagon", words={"colour": "crimson", "shape": "hexagon", "background": "red"})
    for measure in (ColourShown(), ShapeShown(), ObjectShown(), ObjectOverlap(), BackgroundShown()):
        with pytest.raises(ValueError, match="can be detected"):
            measure(both, both, case)


def test_a_picture_of_another_size_is_refused_with_what_to_do(run, both):
    large = pictured(run, [RED_CIRCLE])
    large.images = [Image.new("RGB", (128, 128))]
    for measure in (ColourShown(), ShapeShown(), ObjectShown(), RelationShown(), BackgroundShown("white")):
        with pytest.raises(ValueError, match=r"128×128.*TextSimilarity"):
            measure(large, both, CASE)


def test_every_measure_has_a_name_and_can_be_sent_and_told_from_the_others():
    several = [
        *(ColourShown(word) for word in ("{colour}", "{other_colour}", "red")),
        *(ShapeShown(word) for word in ("{shape}", "circle")),
        *(ObjectShown(*words) for words in ((), ("red", "{shape}"), ("red", "circle"))),
        *(RelationShown(*words) for words in ((), ("red", "blue", "left"), ("red", "blue", "above"))),
        *(BackgroundShown(word) for word in ("{background}", "white")),
        ObjectCount(),
        *(ObjectOverlap(*words) for words in ((), ("circle",))),
        *(own(within) for own in (measures.PictureChange, measures.LatentChange) for within in REGIONS),
        measures.StructuralSimilarity(),
        *(measures.PerceptualDistance(own) for own in ("alex", "vgg")),
        *(measures.TextSimilarity(*own) for own in ((), ("a",), ("{shape}",), (None, "there"))),
        *(measures.PictureSimilarity(*own) for own in ((), ("there",))),
    ]
    assert list(named(several).values()) == several  # each has a name of its own
    for own in several:
        sent = pickle.loads(pickle.dumps(own))
        assert sent == own
        assert describe(sent) == describe(own)
        assert sum(describe(other) == describe(own) for other in several) == 1


REGIONS = (
    None,
    measures.Detected(),
    measures.Outside(measures.Detected()),
    measures.Heated("{shape}"),
    measures.Heated("{shape}", 0.5),
    measures.Area(np.eye(8, dtype=bool)),
)
