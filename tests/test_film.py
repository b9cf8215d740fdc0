"""`film`: the steps of a run in order, as GIF, MP4 and contact sheet."""

from __future__ import annotations

import importlib.util

import imageio
import numpy as np
import pytest
from PIL import Image

import sdprobe
from sdprobe import Preview
from tests.laws.strategies import run


@pytest.fixture
def film(tiny):
    preview = Preview()
    result = run(tiny, preview, steps=4, images_per_prompt=2)
    return sdprobe.film(result[preview], image=1), result[preview]


def test_a_film_has_the_steps_in_order_and_ends_with_the_picture(film):
    own, preview = film
    assert own.noisy == tuple(pictures[1] for pictures in preview["latents"])
    assert own.denoised == tuple(pictures[1] for pictures in preview["denoised"])
    frames = own.frames(height=48)
    assert len(frames) == 5
    left, right = frames[0].crop((0, 13, 48, 61)), frames[0].crop((51, 13, 99, 61))
    assert left.tobytes() == own.noisy[0].resize((48, 48), Image.Resampling.NEAREST).tobytes()
    assert right.tobytes() == own.denoised[0].resize((48, 48), Image.Resampling.NEAREST).tobytes()
    assert all(side % 16 == 0 for frame in frames for side in frame.size)
    assert frames[-1].crop((0, 13, 48, 61)).tobytes() == frames[-1].crop((51, 13, 99, 61)).tobytes()


def test_a_gif_can_be_read_back(film, tmp_path):
    path = film[0].gif(tmp_path / "run.gif", fps=5, height=48)
    with Image.open(path) as opened:
        assert (opened.n_frames, opened.info["duration"], opened.info["loop"]) == (5, 200, 0)
        for i, frame in enumerate(film[0].frames(height=48)):
            opened.seek(i)
            assert np.abs(np.asarray(opened.convert("RGB"), float) - np.asarray(frame, float)).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["run.gif"]


def test_an_mp4_can_be_read_back(film, tmp_path):
    path = film[0].mp4(tmp_path / "run.mp4", fps=5, height=48)
    frames = [frame for frame in imageio.get_reader(path)]  # noqa: C416 - its length is infinite
    assert len(frames) == 5
    assert frames[0].shape[:2] == film[0].frames(height=48)[0].size[::-1]
    written = [np.asarray(frame, float) for frame in film[0].frames(height=48)]
    for i, frame in enumerate(frames):  # compressed, but each nearer to its own than to any other
        assert np.argmin([np.abs(frame - own).mean() for own in written]) == i
    assert [p.name for p in tmp_path.iterdir()] == ["run.mp4"]


def test_without_the_extra_an_mp4_says_what_it_needs(film, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sdprobe\[video\]', or write a GIF"):
        film[0].mp4(tmp_path / "run.mp4")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_film_that_cannot_be_written(film, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="there"):
        film[0].gif(tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_contact_sheet_goes_from_the_first_step_to_the_last(film):
    figure = film[0].sheet(columns=3)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["step 0", "step 2", "step 3"]
    assert len(film[0].sheet(columns=20).axes) == 8


def test_errors(tiny):
    half, both = Preview(keep=("denoised",)), Preview()
    result = run(tiny, half, both)
    with pytest.raises(ValueError, match="did not keep latents"):
        sdprobe.film(result[half])
    with pytest.raises(ValueError, match="image 1 is not in this run of 1 images"):
        sdprobe.film(result[both], image=1)
    with pytest.raises(AttributeError, match="what happened is held by the run"):
        sdprobe.film(both)
