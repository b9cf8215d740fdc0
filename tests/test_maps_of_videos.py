"""Recorded attention of a video: grids of three axes.

The run is one of three images whose record is told again as that of a video with three latent frames. So what is known
of the images has to come out, frame by frame.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from sdprobe import AttentionMaps, SelfAttentionMaps
from sdprobe.core.grid import image_grid, place_in
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.possible_grids import as_grids
from sdprobe.observe.attention_sums import AttentionSums
from sdprobe.observe.daam import daam_maps
from sdprobe.observe.labelled_matrix import place_labels
from sdprobe.observe.memory_budget import SumSize
from sdprobe.runs.export.attention_arrays import attention_arrays
from tests.laws.strategies import run
from tests.videos import as_video, moving_square

EVERYTHING = ("step", "layer", "head")
PROMPT = "a red circle and a checkered blue circle"


@pytest.fixture(scope="module")
def images(tiny):
    maps = AttentionMaps(keep=EVERYTHING)
    return run(tiny, maps, prompt=PROMPT, images_per_prompt=3), maps


@pytest.fixture(scope="module")
def video(images):
    return as_video(*images, moving_square(9, (16, 16), 4))


@pytest.mark.parametrize("where", [{}, {"step": 1}, {"head": 0}, {"occurrence": 0, "word": "circle"}], ids=str)
@pytest.mark.parametrize("method", ["mean", "daam"])
def test_a_frame_of_a_video_is_the_map_of_that_image(images, video, method, where):
    asked = {"word": "checkered", **where}
    heat = video[1].heat_map(method=method, **asked)
    assert heat.values.shape == (3, 8, 8)
    assert heat.pictures == tuple(video[0].images)
    for frame in range(3):
        own = images[0][images[1]].heat_map(image=frame, method=method, **asked)
        assert torch.allclose(heat.frame(frame).values, own.values, atol=1e-7)


def test_all_words_at_once_are_each_word_by_itself(video):
    for word, heat in video[1].heat_maps().items():
        assert torch.equal(heat.values, video[1].heat_map(word).values)
    found = video[1].segment(["red", "blue"])
    assert found.labels.shape == (3, 8, 8)


def test_what_is_saved_comes_back(video):
    live = video[1]
    records = live.records()
    again = copy.copy(live)
    again.restore(HookRecords(_plain(records.values), dict(records.tensors)), video[0])
    assert list(again.sums) == list(live.sums)
    assert {key.grid for key in again.sums} == {(3, 8, 8), (3, 4, 4)}
    assert all(torch.equal(again.sums[key], total) for key, total in live.sums.items())
    assert torch.equal(again.heat_map("red").values, live.heat_map("red").values)


def test_a_run_of_a_video_comes_back_from_its_folder(images, video, reopened):
    opened = reopened(video[0])
    found = opened[AttentionMaps].sums
    assert all(torch.equal(found[key], total) for key, total in video[1].sums.items())


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([3], r"is no grid, which is \(h, w\), or \(t, h, w\) of a video"),
        ([3, 8, 8, 8], "is no grid"),
        ("3x8x8", "is no grid"),
        ([0, 8, 8], "a grid of 0×8×8 has no places"),
        ([3, -8, 8], "-8"),
        ([3, 8, 10**9], "1000000000"),
    ],
    ids=str,
)
def test_a_file_that_names_no_grid_is_refused(video, grid, said):
    values = _plain(video[1].records().values)
    values["sums"][0][3] = grid
    with pytest.raises(ValueError, match=said):
        AttentionSums.restored(HookRecords(values, {}), video[1].readings)


def test_sums_of_other_places_are_refused(video):
    records = video[1].records()
    values = _plain(records.values)
    values["sums"][0][3] = [3, 8, 7]
    sums = AttentionSums.restored(HookRecords(values, dict(records.tensors)), video[1].readings)
    with pytest.raises(ValueError, match="is none of 1 images of 3×8×7 places"):
        sums[next(iter(sums))]


def test_arrays_have_a_dimension_of_frames(images, video):
    coords = {"image": (("image",), np.arange(1))}
    found = {array.name: array for array in attention_arrays(video[1], coords)}
    assert list(found) == ["attention_3x8x8", "attention_3x4x4"]
    largest = found["attention_3x8x8"]
    assert largest.dims == ("image", "step", "layer", "head", "token", "frame", "y", "x")
    assert found["attention_3x4x4"].dims[-3:] == ("frame_3x4x4", "y_3x4x4", "x_3x4x4")
    plain = next(attention_arrays(images[0][images[1]], {"image": (("image",), np.arange(3))}))
    for frame in range(3):
        assert np.array_equal(largest.values[0, ..., frame, :, :], plain.values[frame])


def test_words_down_and_frames_across(video):
    figure = video[1].grid("frame", ["red", "blue"], most=3)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["frame 0", "frame 4", "frame 8"]
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["video", "red", "blue"]
    assert len(video[1].grid("step", ["red"]).axes) == 2
    with pytest.raises(ValueError, match="by is 'step', 'layer', 'head' or 'frame', not 'frames'"):
        video[1].grid("frames")


def test_a_report_shows_frames_side_by_side(video, tmp_path):
    path = video[0].report(tmp_path / "report.html")
    assert path.stat().st_size > 10_000


def test_self_attention_of_a_video(tiny):
    maps = SelfAttentionMaps()
    result = run(tiny, maps)
    live = result[maps]
    matrix = live.matrix(grid=8)
    again = copy.copy(maps)  # the same matrix, as that of four latent frames of 4×4 places
    again.restore(HookRecords({"grids": [[4, 4, 4, 1]]}, {"4x4x4": matrix[None]}), result)
    assert again.recorded_grid() == (4, 4, 4)
    result.images = []
    heat = again.heat_map((1, 2, 3))
    assert torch.equal(heat.values.flatten(), matrix[1 * 16 + 2 * 4 + 3])
    mask = torch.zeros(4, 8, 8)
    mask[1, 4:6, 6:] = 1  # the same place, at twice the size
    assert torch.allclose(again.heat_map(mask).values, heat.values, atol=1e-7)
    assert again.components(1)[0].values.shape == (4, 4, 4)
    assert len(again.figure(2).axes) == 8
    assert again.records().values == {"grids": [[4, 4, 4, 1]]}
    with pytest.raises(ValueError, match=r"position \(4, 0, 0\) lies outside the grid of 4×4×4"):
        again.heat_map((4, 0, 0))
    with pytest.raises(ValueError, match=r"one place \(frame, row, column\), or a mask \[4, H, W\], a frame for each"):
        again.heat_map(torch.ones(8, 8))


def test_daam_refuses_sites_of_other_frames():
    layers = {"up": torch.rand(1, 2, 3, 4, 4), "down": torch.rand(1, 2, 2, 4, 4)}
    assert daam_maps([("up", layers["up"])], (8, 8)).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="these sites differ in frames, 2 and 3"):
        daam_maps(layers.items(), (8, 8))


def test_grids_in_words_and_numbers():
    assert str(SumSize(1, 1, (3, 16, 16), 7)) == "1 image × 768 positions (3×16×16) × 7 tokens"
    assert as_grids([16, (3, 16, 16)]) == [(16, 16), (3, 16, 16)]
    assert place_labels((2, 1, 2)) == ("0,0,0", "0,0,1", "1,0,0", "1,0,1")
    assert [place_in((2, 3, 4), own) for own in np.ndindex(2, 3, 4)] == list(range(24))
    assert image_grid((3, 4), "a hook") == (3, 4)
    with pytest.raises(ValueError, match="a hook is for images: here places are those of a video, 2 frames of 3×4"):
        image_grid((2, 3, 4), "a hook")


def test_a_hook_that_asks_for_no_grid_says_which_there_are(tiny):
    maps = SelfAttentionMaps(grids=[(3, 8, 8)])
    with pytest.raises(ValueError, match=r"grids=\[\(3, 8, 8\)\]; those there are: 4×4, 8×8"):
        run(tiny, maps)[maps].recorded_grid()


def _plain(values):
    return json.loads(json.dumps(dict(values)))
