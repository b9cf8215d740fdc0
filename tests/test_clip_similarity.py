"""Similarity by CLIP: the cosines of `sdprobe.clip`, of the case's own words."""

from __future__ import annotations

import pickle

import pytest

import sdprobe
from sdprobe.experiments import Case
from sdprobe.experiments.measures import PictureSimilarity, TextSimilarity
from sdprobe.shapes import WEIGHTS
from tests.pictured import BLUE_SQUARE, RED_CIRCLE, pictured

CASE = Case("a red circle", words={"shape": "circle"})


@pytest.fixture(scope="module")
def runs(embedded):
    run = sdprobe.sample(embedded, CASE.prompt, steps=2, seed=0, progress=False)
    return [pictured(run, [own]) for own in (RED_CIRCLE, BLUE_SQUARE)]


def cosine(run: sdprobe.Run, text: str) -> float:
    return float(sdprobe.clip.similarity(run.images[0], text).cosine)


def test_it_is_the_cosine_with_the_prompt_or_the_text(runs):
    for run in runs:
        assert TextSimilarity()(run, run, CASE) == pytest.approx(cosine(run, "a red circle"), abs=1e-6)
        filled = TextSimilarity("a blue {shape}")(run, run, CASE)
        assert filled == pytest.approx(cosine(run, "a blue circle"), abs=1e-6)


def test_what_a_picture_shows_is_nearer_than_what_another_shows(runs):
    red, blue = runs
    assert TextSimilarity()(red, red, CASE) > TextSimilarity()(blue, red, CASE)
    square = TextSimilarity("a blue square")
    assert square(blue, red, CASE) > square(red, red, CASE)


def test_a_picture_is_nearest_to_itself(runs):
    red, blue = runs
    assert PictureSimilarity()(red, red) == pytest.approx(1, abs=1e-6)
    assert PictureSimilarity()(blue, red) == pytest.approx(PictureSimilarity()(red, blue), abs=1e-6)
    assert PictureSimilarity()(blue, red) < 0.9


def test_a_clip_is_named_and_then_the_measure_can_be_sent(runs):
    red, blue = runs
    for place in (WEIGHTS / "clip", str(WEIGHTS / "clip")):
        text, picture = (pickle.loads(pickle.dumps(own(clip=place))) for own in (TextSimilarity, PictureSimilarity))
        assert text(red, red, CASE) == TextSimilarity()(red, red, CASE)
        assert picture(blue, red) == PictureSimilarity()(blue, red)
    for measure in (TextSimilarity, PictureSimilarity):
        with pytest.raises(TypeError, match="a folder, a hub id, or None"):
            measure(clip=sdprobe.clip.load())


def test_a_clip_that_is_not_there_is_refused(runs):
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a hub id"):
        TextSimilarity(clip="nowhere")(*runs, CASE)
