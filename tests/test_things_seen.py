"""What the detector sees in the picture of a run, and which words name it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

import sdprobe
from sdprobe.experiments.measures.things_seen import Thing, pixels_of, things_in
from sdprobe.shapes import COLOURS, SHAPES, detect, scene
from tests.pictured import BLUE_SQUARE, RED_CIRCLE, pictured


@pytest.fixture(scope="module")
def run(embedded):
    return sdprobe.sample(embedded, "a red circle", steps=2, seed=0, progress=False)


@pytest.mark.parametrize("seed", range(4))
def test_they_are_what_the_detector_finds(run, seed):
    picture = scene(seed, objects=2, full=True).image
    found, expected = things_in(pictured(run, picture)), detect(picture)
    assert [(own.colour, own.shape, own.centre) for own in found] == [(o.colour, o.shape, o.centre) for o in expected]
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own.mask, other.mask)


def test_another_picture_of_the_same_run_is_not_taken_for_it(run):
    first, second = (things_in(pictured(run, [own])) for own in (RED_CIRCLE, BLUE_SQUARE))
    assert (first[0].colour, second[0].colour) == ("red", "blue")


def test_every_pair_of_words_names_a_thing():
    for colour, shape in itertools.product(COLOURS, SHAPES):
        assert Thing.of(f"{colour} {shape}") == Thing(colour, shape)
    assert Thing.of("red") == Thing("red", None)


@pytest.mark.parametrize("words", ["", "crimson", "circle red", "a red circle", "red red", "circle square"])
def test_other_words_are_refused_with_the_choices(words):
    with pytest.raises(ValueError, match=r"names nothing that can be detected.*orange.*triangle"):
        Thing.of(words)


def test_the_largest_that_fits_is_seen(run):
    small = RED_CIRCLE.__class__("circle", "blue", (50, 32), 8)
    found = things_in(pictured(run, [small, RED_CIRCLE]))
    assert Thing.of("circle").seen(found).colour == "red"
    assert Thing.of("blue").seen(found).centre == pytest.approx((50, 32), abs=1)
    assert Thing.of("star").seen(found) is None


def test_a_picture_of_another_size_is_refused_with_what_to_do(run):
    other = pictured(run, np.zeros((64, 64, 3), np.uint8))
    other.images = [Image.new("RGB", (96, 32))]
    with pytest.raises(ValueError, match=r"64×64.*32×96.*TextSimilarity"):
        pixels_of(other)
