"""Masks from maps: cut at a threshold, spread along self-attention, fitted to the picture, and their largest part."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import HeatMap
from sdprobe.plot.map_to_mask import grid_of
from tests.planted import square


def random_map(h, w, seed=0):
    return torch.rand(h, w, generator=torch.Generator().manual_seed(seed))


def picture_of(mask, low=40, high=220):
    """A grey picture that is light in a mask."""
    levels = np.where(mask.numpy(), high, low).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def test_otsu_parts_the_values_with_the_least_variance_within():
    pytest.importorskip("skimage")
    inside = square((9, 12), 2, 3, 4)
    values = torch.where(inside, 5.0, 1.0) + 0.3 * random_map(9, 12)
    assert torch.equal(HeatMap(values).mask(method="otsu"), inside)
    values = HeatMap(random_map(8, 8)).normalized().values
    found = HeatMap(values).mask(method="otsu")

    def within(mask):
        return sum(mask_.float().mean() * values[mask_].var(unbiased=False) for mask_ in (mask, ~mask))

    others = [values > cut for cut in values.flatten().sort().values[1:-1]]
    assert within(found) <= min(map(within, others)) * 1.02  # it looks at 256 levels
    assert not HeatMap(torch.ones(4, 4)).mask(method="otsu").any()


def test_spreading_is_a_product_with_normalised_rows():
    values, affinity = random_map(4, 6), 0.1 + random_map(24, 24, 1)
    expected = (affinity / affinity.sum(1, keepdim=True)) @ values.flatten()
    spread = HeatMap(values, "word").spread(affinity)
    assert spread.word == "word"
    assert torch.allclose(spread.values.flatten(), expected, atol=1e-6)
    own = HeatMap(values).mask(0.5, method="self_attention", affinity=affinity)
    assert torch.equal(own, spread.mask(0.5))
    assert torch.allclose(HeatMap(values).spread(torch.eye(24)).values, values)
    finer = HeatMap(random_map(8, 12), "")
    assert torch.allclose(finer.spread(torch.eye(24)).values, finer.resize((4, 6), "bilinear").values)
    assert finer.mask(method="self_attention", affinity=affinity).shape == (8, 12)


def test_self_attention_fills_the_object_of_which_it_is(tiny):
    """Places of one object look at each other alone, so heat at one corner of it becomes heat everywhere in it."""
    inside = square((6, 6), 1, 2, 3).flatten()
    affinity = (inside[:, None] == inside[None]).float()
    corner = torch.zeros(6, 6)
    corner[1, 2] = 1
    heat = HeatMap(corner)
    assert torch.equal(heat.mask(method="self_attention", affinity=affinity), inside.unflatten(0, (6, 6)))
    assert heat.iou(inside.unflatten(0, (6, 6)), method="self_attention", affinity=affinity) == 1

    maps, looks = sdprobe.AttentionMaps(), sdprobe.SelfAttentionMaps()
    settings = {"steps": 2, "seed": 0, "height": 16, "width": 24, "progress": False}
    run = sdprobe.sample(tiny, "a red circle", hooks=[maps, looks], **settings)
    heat, matrix = run[maps].heat_map("circle"), run[looks].matrix()
    method = ("self_refined", {"power": 1})
    assert torch.allclose(heat.spread(matrix).values, run[maps].heat_map("circle", method=method).values, atol=1e-6)


@pytest.mark.parametrize(
    ("places", "like", "grid"), [(24, (4, 6), (4, 6)), (24, (8, 12), (4, 6)), (16, (5, 5), (4, 4))]
)
def test_the_grid_of_a_matrix_has_the_map_s_ratio(places, like, grid):
    assert grid_of(torch.ones(places, places), like) == grid


def test_what_is_no_affinity():
    heat = HeatMap(random_map(4, 6))
    for wrong in (torch.ones(16, 16), torch.ones(24, 16), torch.ones(24)):
        with pytest.raises(ValueError, match=r"a grid with the map's ratio of height to width, 4×6"):
            heat.spread(wrong)
    for wrong in (torch.zeros(24, 24), -torch.eye(24)):
        with pytest.raises(ValueError, match="shares of attention"):
            heat.spread(wrong)


def test_a_random_field_follows_the_borders_of_the_picture():
    pytest.importorskip("pydensecrf")
    truth = square((32, 48), 8, 12, 16)
    coarse = HeatMap(square((4, 6), 1, 1, 2).float() * 0.7 + 0.3 * random_map(4, 6), "it", picture_of(truth))
    plain, fitted = (coarse.resize((32, 48)).mask(method=method) for method in ("threshold", "crf"))
    assert torch.equal(fitted, coarse.resize((32, 48)).mask(method="crf"))
    scores = [coarse.iou(truth), coarse.iou(truth, method="crf")]
    assert scores[0] < 0.8
    assert scores[1] > 0.97
    assert scores == [sdprobe.plot.iou(own, truth) for own in (plain, fitted)]
    with pytest.raises(ValueError, match="a threshold between 0 and 1, not 0"):
        coarse.mask(0, method="crf")


def test_without_neighbours_the_field_is_the_threshold(monkeypatch):
    """The odds of an object are even where the normalised map is at the threshold."""
    pytest.importorskip("pydensecrf")
    for kernel in ("SMOOTH", "ALIKE"):
        own = vars(sdprobe.plot.map_to_mask)[kernel]
        monkeypatch.setitem(own, "compat", 0)
    heat = HeatMap(random_map(8, 8), "", Image.new("RGB", (8, 8)))
    for threshold in (0.2, 0.5, 0.8):
        assert torch.equal(heat.mask(threshold, method="crf"), heat.mask(threshold))


def test_the_largest_part_is_connected_across_edges():
    values = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]])
    assert HeatMap(values).mask(0.5, largest=True).tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]]
    assert torch.equal(HeatMap(values[:1]).mask(largest=True), values[:1].bool())
    assert not HeatMap(torch.zeros(3, 3)).mask(largest=True).any()
    twins = torch.tensor([[1.0, 0, 1]])
    assert HeatMap(twins).mask(largest=True).tolist() == [[True, False, False]]


def test_what_a_method_needs_is_said():
    heat = HeatMap(random_map(4, 4))
    with pytest.raises(ValueError, match="'threshold', 'otsu', 'self_attention', 'crf', not 'ostu'"):
        heat.mask(method="ostu")
    with pytest.raises(ValueError, match=r"give affinity=run\[looks\]\.matrix\(image\)"):
        heat.mask(method="self_attention")
    with pytest.raises(ValueError, match="method='otsu' does not use it"):
        heat.mask(method="otsu", affinity=torch.eye(16))
    with pytest.raises(ValueError, match="this map has none"):
        heat.mask(method="crf")


@pytest.mark.parametrize(
    ("method", "package", "install"),
    [("otsu", "skimage.filters", r"sdprobe\[analysis\]"), ("crf", "pydensecrf", r"sdprobe\[crf\]")],
)
def test_without_its_package_a_method_says_what_to_install(monkeypatch, method, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    heat = HeatMap(random_map(4, 4), "", Image.new("RGB", (8, 8)))
    with pytest.raises(ImportError, match=f'pip install "{install}"'):
        heat.mask(method=method)
