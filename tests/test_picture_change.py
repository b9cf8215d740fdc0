"""The change of pixels: none for the same picture, and the parts of a picture add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest

import sdprobe
from sdprobe.experiments import Case
from sdprobe.experiments.measures import Area, Detected, Outside, PictureChange
from tests.pictured import BLUE_SQUARE, RED_CIRCLE, pictured

CASE = Case("a red circle")


@pytest.fixture(scope="module")
def run(embedded):
    return sdprobe.sample(embedded, CASE.prompt, steps=2, seed=0, progress=False)


@pytest.fixture(scope="module")
def noisy(run):
    return [pictured(run, np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for k in (0, 1)]


def test_it_is_the_mean_over_pixels_and_channels(noisy):
    pixels, others = (np.asarray(own.images[0]).astype(int) for own in noisy)
    assert PictureChange()(*noisy, CASE) == pytest.approx(np.abs(pixels - others).mean())


def test_it_is_the_same_both_ways_and_none_for_the_same_picture(noisy):
    one, other = noisy
    assert PictureChange()(one, other, CASE) == PictureChange()(other, one, CASE)
    assert PictureChange()(one, one, CASE) == 0


@pytest.mark.parametrize("seed", range(3))
def test_inside_and_outside_weighted_by_area_are_the_whole(noisy, seed):
    mask = np.random.default_rng(seed).random((64, 64)) < 0.3
    inside, outside, whole = (PictureChange(own)(*noisy, CASE) for own in (Area(mask), Outside(Area(mask)), None))
    assert mask.mean() * inside + (1 - mask.mean()) * outside == pytest.approx(whole)


def test_from_black_to_white_is_255(run):
    black, white = (pictured(run, np.full((64, 64, 3), level, np.uint8)) for level in (0, 255))
    assert PictureChange()(black, white, CASE) == 255


def test_a_change_of_one_thing_is_none_elsewhere(run):
    plain, moved = (pictured(run, own) for own in ([RED_CIRCLE, BLUE_SQUARE], [RED_CIRCLE]))
    assert PictureChange(Detected("red"))(moved, plain, CASE) == 0
    assert PictureChange(Detected("blue"))(moved, plain, CASE) > 80
    assert PictureChange(Outside(Detected("blue")))(moved, plain, CASE) < 2
    assert PictureChange(Detected("blue"))(plain, moved, CASE) is None


def test_only_a_region_is_taken():
    with pytest.raises(TypeError, match="a region is Detected"):
        PictureChange("circle")
