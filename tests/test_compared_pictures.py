"""The videos of two runs beside each other: all frames are compared, and some are shown."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import ImageOps

import sdprobe
from sdprobe import Statistics, compare
from sdprobe.plot.tiled import tiled
from sdprobe.runs.comparison.compared_pictures import frames_shown
from tests.families import FAMILIES


@pytest.fixture(scope="module")
def videos():
    model = sdprobe.load(FAMILIES["LTX-Video"]())

    def made(frames=5, seed=(1, 2)):
        asked = {"frames": frames, "height": 32, "width": 64, "steps": 2, "seed": seed, "images_per_prompt": 2}
        return sdprobe.sample(model, "a star", hooks=[Statistics()], progress=False, **asked)

    return made


@pytest.fixture(scope="module")
def run(videos):
    return videos()


def pixels_of(pictures):
    return np.stack([np.asarray(own, dtype=float) / 255 for own in pictures])


def verdicts(found):
    return [own.verdict for own in found.table if own.quantity == "picture"]


def test_all_frames_of_each_video_are_compared(run, videos):
    found = compare(run, other := videos(seed=(1, 3)))
    assert verdicts(found) == ["equal", "different"]
    a, b = (pixels_of(own.videos[1]) for own in (run, other))
    distance = next(own for own in found.table if own.quantity == "picture" and own.image == 1)
    assert np.isclose(distance.distance, np.sqrt(((a - b) ** 2).mean() / (a**2).mean()))
    assert np.isclose(distance.cosine, (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.allclose(found.pixel_difference(1), tiled(np.abs(a - b).mean(-1), fill=0))
    assert found.difference(1).size == (3 * 64, 2 * 32)
    assert [ax.get_title() for ax in found.figure(1).axes[:3]] == ["a", "b", "difference"]
    assert "video 1 of a" in found._repr_html_()
    changed = copy.copy(run)
    changed.images = [*run.images[:4], ImageOps.invert(run.images[4]), *run.images[5:]]
    assert verdicts(compare(run, changed)) == ["different", "equal"]


def test_videos_of_other_lengths_are_shown_and_not_subtracted(run, videos):
    found = compare(run, videos(frames=7))
    assert "pictures: videos of 5 and 7 frames, so shown, but not subtracted" in found.notes
    assert "noise: statistics of other sizes, so they tell no distance" in found.notes
    assert found.table == ()
    assert found.difference() is None
    assert [len(own) for own in found.pictures[0]] == [5, 7]
    assert found._repr_html_().count("<img") == 4


def test_of_a_long_video_the_frame_that_differs_most_is_shown():
    for most in range(40):
        differences = np.zeros((40, 2, 2), np.float32)
        differences[most, 0, 1] = 0.5
        chosen = frames_shown(40, differences)
        assert most in chosen
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 16
