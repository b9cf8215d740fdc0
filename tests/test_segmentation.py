"""A picture divided among words."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import HeatMap, Segmentation
from tests.planted import OneHot, latents_for, planted, square


def random_map(h, w, seed):
    return torch.rand(h, w, generator=torch.Generator().manual_seed(seed))


def scaled(values):
    return (values - values.min()) / (values.max() - values.min() + 1e-8)


MAPS = {word: random_map(6, 9, seed) ** 2 * (seed + 1) for seed, word in enumerate(("red", "circle", "star"))}


@pytest.mark.parametrize("background", [True, False, 0.3, 0.0, 1.0])
def test_each_place_goes_to_the_highest_normalised_map(background):
    found = Segmentation({word: HeatMap(own, word) for word, own in MAPS.items()}, background)
    names = (() if background is False else ("background",)) + tuple(MAPS)
    assert found.names == names
    for y in range(6):
        for x in range(9):
            values = {word: scaled(own)[y, x].item() for word, own in MAPS.items()}
            if background is not False:
                rest = 1 - max(values.values()) if background is True else background
                values = {"background": rest} | values
            assert names[found.labels[y, x]] == max(values, key=values.get)
    assert torch.stack([found.mask(name) for name in names]).sum(0).eq(1).all()


def test_maps_of_several_grids_are_compared_at_the_largest():
    fine, coarse = HeatMap(random_map(6, 9, 0)), HeatMap(random_map(2, 3, 1))
    found = Segmentation({"fine": fine, "coarse": coarse}, background=False)
    assert torch.equal(found.labels, (scaled(coarse.resize((6, 9)).values) > scaled(fine.values)).long())
    with pytest.raises(ValueError, match=r"one ratio of height to width, not HeatMap\('', 2×2\) beside 6×9"):
        Segmentation({"fine": fine, "other": HeatMap(torch.eye(2))})


def test_a_planted_square_and_the_rest():
    mask = square((8, 8), 2, 4, 4)
    maps = sdprobe.AttentionMaps(grids=[(8, 8)])
    settings = {"steps": 2, "latents": latents_for([mask]), "progress": False}
    run = sdprobe.sample(planted(3), "a red circle", hooks=[OneHot(), maps], **settings)
    found = run[maps].segment(["circle"])
    assert found.names == ("background", "circle")
    assert torch.equal(found.mask("circle"), mask)
    assert found.miou({"circle": mask, "background": ~mask}) == 1
    fine = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert found.mask("circle", (16, 16)).shape == (16, 16)
    assert found.miou({"circle": fine}) > 0.7
    daam = run[maps].segment(["circle"], method="daam")
    assert torch.equal(daam.mask("circle"), mask)
    for words in ("circle", ["circle", "circle"]):
        with pytest.raises(ValueError, match="a list of different words"):
            run[maps].segment(words)
    with pytest.raises(sdprobe.WordNotInPrompt, match="'hexagon'"):
        run[maps].segment(["circle", "hexagon"])


def test_tokens_of_one_spelling_are_told_apart(tiny):
    maps = sdprobe.AttentionMaps()
    run = sdprobe.sample(tiny, "a circle on a circle", hooks=[maps], steps=1, seed=0, progress=False)
    assert run[maps].segment(["circle", 2, 5], background=False).names == ("circle", "circle at 2", "circle at 5")


def test_mean_iou_is_over_the_names_given():
    found = Segmentation({word: HeatMap(own, word) for word, own in MAPS.items()})
    truth = {"red": random_map(6, 9, 5) > 0.5, "star": random_map(6, 9, 6) > 0.5}
    each = [sdprobe.plot.iou(found.mask(word), own) for word, own in truth.items()]
    assert found.miou(truth) == pytest.approx(sum(each) / 2)
    with pytest.raises(KeyError, match="'blue' is no part of this segmentation; its parts: background, red"):
        found.miou({"blue": torch.ones(6, 9)})
    with pytest.raises(ValueError, match=r"the mask of 'red' is not \[h, w\]: \[6\]"):
        found.miou({"red": torch.ones(6)})
    with pytest.raises(ValueError, match="at least one name"):
        found.miou({})
    with pytest.raises(ValueError, match="the mask of 'red' is "):
        found.miou({"red": torch.ones(6, 10)})


def test_what_is_no_segmentation():
    with pytest.raises(ValueError, match="at least one"):
        Segmentation({})
    with pytest.raises(ValueError, match=r"from 0 to 1, not 1\.5"):
        Segmentation({"red": HeatMap(torch.eye(2))}, background=1.5)
    with pytest.raises(ValueError, match="'background' itself"):
        Segmentation({"background": HeatMap(torch.eye(2))})


def test_the_overlay_has_a_legend_of_different_colours():
    picture = Image.new("RGB", (18, 12), "white")
    found = Segmentation({f"word {i}": HeatMap(random_map(6, 9, i), f"word {i}", picture) for i in range(9)})
    figure = found.overlay()
    (legend,) = figure.legends
    assert tuple(text.get_text() for text in legend.get_texts()) == found.names
    styles = [(patch.get_facecolor(), patch.get_hatch()) for patch in legend.get_patches()]
    assert len(set(styles)) == len(found.names) == 10
    assert figure.axes[0].images[0].get_array().shape == (12, 18, 3)
    axes = type(figure)().subplots(1, 2)
    assert found.overlay(axes[1]) is axes[0].figure
    assert axes[1].get_legend() is not None
