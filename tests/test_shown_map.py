"""The map of a video: its frames, its masks, and its scores over all of them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from sdprobe import HeatMap, Segmentation
from sdprobe.plot.resized import at_largest
from tests.videos import moving_map, moving_square

VALUES, PICTURES = moving_map(), tuple(moving_square())


@pytest.fixture
def heat():
    return HeatMap(VALUES, "square", PICTURES)


def test_a_frame_is_the_map_of_an_image(heat):
    assert (heat.frames, heat.size, heat.is_video) == (3, (12, 16), True)
    for k, shown in enumerate((0, 2, 6)):  # of frames 0 | 1 to 4 | 5 to 8 the middle ones
        own = heat.frame(k)
        assert torch.equal(own.values, VALUES[k])
        assert own.picture is PICTURES[shown]
        assert own.frame(0) is own
        assert torch.equal(own.mask(), HeatMap(VALUES[k]).mask())
    with pytest.raises(IndexError, match="frame 3 is not in this map of 3 frames"):
        heat.frame(3)


def test_a_video_is_normalized_as_a_whole(heat):
    own = heat.normalized().values
    assert (float(own.min()), float(own.max())) == (0.0, 1.0)
    assert own[0].max() < own[1].max() < own[2].max()  # so frames can be compared
    assert torch.equal(own.flatten(), HeatMap(VALUES.flatten(0, 1)).normalized().values.flatten())
    assert torch.equal(heat.resize((24, 32)).values[1], heat.frame(1).resize((24, 32)).values)


@pytest.mark.parametrize("how", [{}, {"threshold": 0.7}, {"method": "otsu"}], ids=str)
def test_scores_are_over_all_places_of_all_frames(heat, how):
    """The map with its frames one below the other is a map of an image with the same places."""
    truth = VALUES > 0.3
    below = HeatMap(VALUES.flatten(0, 1), "square")
    for score in ("iou", "ioa", "dice"):
        assert getattr(heat, score)(truth, **how) == getattr(below, score)(truth.flatten(0, 1), **how)
    assert torch.equal(heat.mask(**how).flatten(0, 1), below.mask(**how))
    assert heat.average_precision(truth) == below.average_precision(truth.flatten(0, 1))
    assert heat.points_into(truth)
    assert not heat.points_into(truth & (torch.arange(3) < 2)[:, None, None])  # the maximum is in the last frame


def test_a_mask_may_have_the_frames_of_the_video(heat):
    truth = (VALUES > 0.3)[[0, 1, 1, 1, 1, 2, 2, 2, 2]]
    own = heat.mask()[[0, 1, 1, 1, 1, 2, 2, 2, 2]]
    assert heat.iou(truth) == (own & truth).sum().item() / (own | truth).sum().item()
    with pytest.raises(ValueError, match="has 4 frames: give one for each of the 3 of the map, or each of the 9"):
        heat.iou(truth[:4])
    with pytest.raises(ValueError, match=r"a mask of a video is \[frames, h, w\], a number for each place"):
        heat.iou(truth[0])
    with pytest.raises(ValueError, match="the mask is 12×12, and the picture is 48×64"):
        heat.iou(truth[..., :12])


def test_the_largest_part_goes_on_from_frame_to_frame():
    values = torch.zeros(3, 1, 4)
    values[:, 0, 0] = 1  # one place, in all frames
    values[0, 0, 2:] = 1  # two places, in one
    assert torch.equal(HeatMap(values).mask(largest=True), (torch.arange(4) == 0).expand(3, 1, 4))


def test_a_video_is_spread_over_all_its_places():
    values, affinity = torch.rand(2, 2, 3), torch.rand(12, 12)
    expected = (affinity / affinity.sum(-1, keepdim=True)) @ values.flatten()
    assert torch.allclose(HeatMap(values).spread(affinity).values.flatten(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="2×3 and its 2 frames, not"):
        HeatMap(values).spread(torch.rand(6, 9))


def test_what_shows_one_image_says_what_to_do(heat):
    for show, said in (
        (HeatMap.to_image, r"heat\.frame\(number\)\.to_image\(\), or heat\.film\(\)"),
        (HeatMap.cell, r"heat\.film\(\)\.cells"),
        (lambda own: own.overlay(object()), r"heat\.frame\(number\)\.overlay\(ax\)"),
    ):
        with pytest.raises(ValueError, match=said):
            show(heat)
    with pytest.raises(ValueError, match="map of an image, which has no frames"):
        heat.frame(0).film()
    assert heat._repr_png_()[:4] == b"\x89PNG"


def test_values_and_pictures_have_to_fit():
    with pytest.raises(ValueError, match=r"a map is \[h, w\], that of a video \[frames, h, w\], not \[4\]"):
        HeatMap(torch.ones(4))
    with pytest.raises(ValueError, match=r"the picture of a map \[3, 12, 16\] is the frames of the video"):
        HeatMap(VALUES, "square", PICTURES[0])
    with pytest.raises(ValueError, match=r"the picture of a map \[2, 2\] is one image"):
        HeatMap(torch.ones(2, 2), "square", PICTURES)
    with pytest.raises(ValueError, match="a map of 3 frames is no map of a video of 2"):
        HeatMap(VALUES, "square", PICTURES[:2])


def test_maps_of_other_frames_are_not_averaged():
    with pytest.raises(ValueError, match="maps of 2 and 3 frames of a video cannot be averaged"):
        at_largest([torch.ones(3, 4, 4), torch.ones(2, 4, 4)])


def test_a_video_is_segmented_over_all_frames(heat):
    other = HeatMap(VALUES.flip(0), "other", PICTURES)
    found = Segmentation({"square": heat, "other": other})
    flat = Segmentation({own.word: HeatMap(own.values.flatten(0, 1), own.word) for own in (heat, other)})
    assert torch.equal(found.labels.flatten(0, 1), flat.labels)
    assert repr(found) == "Segmentation(background, square, other; 3×12×16)"
    assert found.miou({name: found.mask(name) for name in found.names}) == 1.0
    assert found.overlay(frame=2).axes
    with pytest.raises(ValueError, match=r"the mask of 'square' is not \[3, h, w\]"):
        found.miou({"square": torch.ones(12, 16)})
    with pytest.raises(ValueError, match="maps of one picture have the same frames"):
        Segmentation({"square": heat, "other": HeatMap(VALUES[:2])})


def test_pictures_may_be_as_many_as_maps():
    heat = HeatMap(VALUES, "square", [Image.new("RGB", (16, 12))] * 3)
    assert heat.frame(1).picture is heat.pictures[1]
