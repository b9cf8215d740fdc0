"""`HeatFilm`: the map over the frames of a video, as GIF, MP4 and contact sheet."""

from __future__ import annotations

import imageio
import numpy as np
import pytest
import torch
from PIL import Image

from sdprobe import HeatMap
from sdprobe.plot.figures import laid_over
from sdprobe.plot.resized import resize
from tests.videos import moving_map, moving_square

VALUES, PICTURES = moving_map(), moving_square()
GROUPS = (0, 1, 1, 1, 1, 2, 2, 2, 2)


@pytest.fixture
def film():
    return HeatMap(VALUES, "square", PICTURES).film()


def test_every_frame_shows_its_own_latent_frame_on_one_scale(film):
    whole = resize(VALUES, (48, 64)).clamp_min(0)
    whole = (whole - whole.min()) / (whole.max() - whole.min())
    assert film.groups == GROUPS
    assert np.allclose(film.values, whole[list(GROUPS)].numpy(), atol=1e-6)
    frames = film.frames(height=48)
    assert len(frames) == len(film) == 9
    for i, frame in enumerate(frames):
        expected = (laid_over(PICTURES[i], film.values[i]) * 255).round().astype(np.uint8)
        assert np.array_equal(np.asarray(frame), expected)


def test_frames_have_sides_for_codecs(film):
    assert {frame.size for frame in film.frames(height=50)} == {(80, 64)}
    corner = film.frames(height=50)[0].getpixel((79, 63))
    assert corner == (255, 255, 255)


def test_a_smooth_film_moves_between_the_latent_frames(film):
    smooth = HeatMap(VALUES, "square", PICTURES).film(smooth=True)
    assert np.array_equal(smooth.values[0], film.values[0])
    assert np.allclose(smooth.values[1], 0.6 * film.values[0] + 0.4 * film.values[1], atol=1e-6)  # the middle is at 2.5
    assert smooth.groups == GROUPS
    equal = HeatMap(VALUES, "square", PICTURES).film(causal=False)
    assert equal.groups == (0, 0, 0, 1, 1, 1, 2, 2, 2)


def test_a_gif_has_as_many_frames_as_the_video(film, tmp_path):
    path = film.gif(tmp_path / "square.gif", fps=5, height=48)
    with Image.open(path) as opened:
        assert (opened.n_frames, opened.info["duration"], opened.info["loop"]) == (9, 200, 0)
        for i, frame in enumerate(film.frames(height=48)):
            opened.seek(i)
            assert np.abs(np.asarray(opened.convert("RGB"), float) - np.asarray(frame, float)).mean() < 4


def test_an_mp4_can_be_read_back(film, tmp_path):
    path = film.mp4(tmp_path / "square.mp4", fps=5, height=48)
    frames = [frame for frame in imageio.get_reader(path)]  # noqa: C416 - its length is infinite
    assert len(frames) == 9
    written = [np.asarray(frame, float) for frame in film.frames(height=48)]
    for i, frame in enumerate(frames):  # compressed, but each nearer to its own than to any other
        assert np.argmin([np.abs(frame - own).mean() for own in written]) == i


def test_the_sheet_shows_frames_from_the_first_to_the_last(film):
    figure = film.sheet(columns=3)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["frame 0", "frame 4", "frame 8"]
    assert [figure.axes[k].get_ylabel() for k in (0, 3)] == ["video", "square"]
    for k, i in enumerate((0, 4, 8)):
        assert np.array_equal(figure.axes[k].images[0].get_array(), np.asarray(PICTURES[i]))
        assert np.allclose(figure.axes[3 + k].images[0].get_array(), laid_over(PICTURES[i], film.values[i]))
    assert len(film.sheet(columns=20).axes) == 18


def test_without_pictures_the_maps_are_drawn_alone(tmp_path):
    film = HeatMap(torch.eye(4).reshape(4, 2, 2), "word").film()
    assert film.groups == (0, 1, 2, 3)
    assert len(film.sheet().axes) == 4
    assert [frame.size for frame in film.frames(height=32)] == [(32, 32)] * 4
