"""Regions: what is detected, what is heated, a given area, and the rest."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.experiments import Case, experiment
from sdprobe.experiments.description import describe
from sdprobe.experiments.measures import Area, Detected, Heated, Outside, PictureChange, Region
from sdprobe.experiments.measures.region import mask_of
from tests.pictured import BLUE_SQUARE, RED_CIRCLE, pictured

CASE = Case("a red circle left of a blue square", words={"colour": "red", "shape": "circle", "other": "blue square"})
LEFT = np.zeros((64, 64), dtype=bool)
LEFT[:, :32] = True


@pytest.fixture(scope="module")
def heated(embedded):
    return sdprobe.sample(embedded, CASE.prompt, hooks=[sdprobe.AttentionMaps()], steps=2, seed=0, progress=False)


@pytest.fixture(scope="module")
def plain(heated):
    return pictured(heated, [RED_CIRCLE, BLUE_SQUARE])


def test_what_is_detected_is_the_object_as_it_was_drawn(plain):
    yy, xx = np.mgrid[0:64, 0:64] + 0.5
    drawn = torch.tensor((xx - 18) ** 2 + (yy - 32) ** 2 < 12**2)
    for words in ("{colour} {shape}", "circle", "{colour}"):
        found = Detected(words).mask(plain, plain, CASE)
        assert (found & drawn).sum() / (found | drawn).sum() > 0.95
    assert not (found & Detected("{other}").mask(plain, plain, CASE)).any()


def test_it_is_where_the_thing_was_before(plain):
    gone = pictured(plain, [BLUE_SQUARE])
    before = Detected("red").mask(plain, plain, CASE)
    assert torch.equal(Detected("red").mask(gone, plain, CASE), before)
    assert Detected("red").mask(plain, gone, CASE) is None
    assert Outside(Detected("red")).mask(plain, gone, CASE) is None


def test_what_is_heated_is_the_mask_of_the_heat_map(heated):
    heat = heated[sdprobe.AttentionMaps].heat_map("circle")
    assert torch.equal(Heated("{shape}").mask(heated, heated, CASE), heat.resize((64, 64)).mask())
    assert torch.equal(Heated("circle", 0.7).mask(heated, heated, CASE), heat.resize((64, 64)).mask(0.7))
    assert Heated("circle", 0.7).mask(heated, heated, CASE).sum() < Heated("circle").mask(heated, heated, CASE).sum()


def test_it_finds_the_maps_of_an_experiment_in_a_batch_and_alone(embedded):
    """The condition's own maps may be others; those of the untouched run are read."""
    change, swap = PictureChange(Heated("circle")), {"blue": [sdprobe.ReplaceToken("red", with_="blue")]}
    hooks = ["attention-maps"]
    for batch in (2, 1):
        result = experiment(embedded, "a red circle", swap, change, hooks=hooks, batch=batch, steps=2, progress=False)
        values = {row["condition"]: row for row in result.rows}
        assert "error" not in values["blue"]
        assert values["untouched"]["value"] == 0 < values["blue"]["value"]


def test_without_maps_it_says_which_hook_to_give(embedded):
    plain = sdprobe.sample(embedded, "a red circle", steps=1, seed=0, progress=False)
    with pytest.raises(ValueError, match=r"no AttentionMaps is among the hooks.*hooks=\[sdprobe.AttentionMaps\(\)\]"):
        Heated("circle").mask(plain, plain, CASE)


def test_with_two_maps_it_asks_for_one(embedded):
    maps = [sdprobe.AttentionMaps(), sdprobe.AttentionMaps(places=["up"])]
    run = sdprobe.sample(embedded, "a red circle", hooks=maps, steps=1, seed=0, progress=False)
    with pytest.raises(ValueError, match="there are 2 AttentionMaps"):
        Heated("circle").mask(run, run, CASE)


def test_a_word_that_the_case_does_not_have_is_named(plain):
    for region in (Detected("{size}"), Heated("{size}")):
        with pytest.raises(ValueError, match="asks for the word of 'size'"):
            region.mask(plain, plain, CASE)


def test_an_area_is_its_mask_at_the_size_of_the_picture(plain):
    for given in (LEFT, torch.tensor(LEFT), LEFT.tolist(), tuple(map(tuple, LEFT.tolist())), LEFT[::8, ::8]):
        assert torch.equal(Area(given).mask(plain, plain, CASE), torch.tensor(LEFT))
    with pytest.raises(ValueError, match="ratio"):
        Area(LEFT[:32]).mask(plain, plain, CASE)
    with pytest.raises(ValueError, match=r"a mask over an image is \[h, w\], not \[1, 64, 64\]"):
        Area(LEFT[None]).mask(plain, plain, CASE)


def test_an_area_keeps_a_mask_of_its_own():
    mask = LEFT.copy()
    area = Area(mask)
    mask[:] = False
    assert area == Area(LEFT)
    with pytest.raises(ValueError, match="read-only"):
        pickle.loads(pickle.dumps(area)).places[0] = True


def test_what_is_no_mask_is_refused(heated):
    with pytest.raises(TypeError, match="not numbers of float64"):
        Area(LEFT * 1.0)
    with pytest.raises(TypeError, match="makes one"):
        Area(heated[sdprobe.AttentionMaps].heat_map("circle"))
    with pytest.raises(ValueError, match="at least one place"):
        Area(~(LEFT | ~LEFT))
    with pytest.raises(ValueError, match=r"\[1, 1, 64, 64\]"):
        Area(LEFT[None, None])


def test_inside_and_outside_are_the_whole(plain):
    for region in (Detected("red"), Heated("circle"), Area(LEFT)):
        inside, outside = (own.mask(plain, plain, CASE) for own in (region, Outside(region)))
        assert (inside ^ outside).all()
        assert torch.equal(Outside(Outside(region)).mask(plain, plain, CASE), inside)


def test_what_is_no_region_is_refused(plain):
    for wrong in ("circle", LEFT, Detected):
        with pytest.raises(TypeError, match="a region is Detected"):
            Outside(wrong)


def test_nothing_is_measured_where_a_region_is_empty(plain):
    assert mask_of(Outside(Area(LEFT | ~LEFT)), plain, plain, CASE) is None
    assert mask_of(None, plain, plain, CASE).all()


def test_each_can_be_sent_and_told_from_the_others():
    several = [Detected("red"), Detected(), Heated("red"), Heated("red", 0.5), Area(LEFT), Area(~LEFT), Area(LEFT[::2])]
    several += [Outside(own) for own in several]
    for own in several:
        assert isinstance(own, Region)
        sent = pickle.loads(pickle.dumps(own))
        assert sent == own
        assert hash(sent) == hash(own)
        assert describe(sent) == describe(own)
        assert sum(describe(other) == describe(own) for other in several) == 1
        assert sum(other == own for other in several) == 1
