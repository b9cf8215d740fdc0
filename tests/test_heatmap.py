"""Heat maps as such: resizing, thresholds, overlap, pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdprobe import HeatMap
from sdprobe.plot.resized import resize

sizes = st.integers(1, 9)
numbers = st.integers(0, 2**20)


def random_map(h: int, w: int, seed: int) -> torch.Tensor:
    return torch.rand(h, w, generator=torch.Generator().manual_seed(seed))


@given(h=sizes, w=sizes, seed=numbers)
def test_a_map_at_its_own_size_stays_as_it_is(h, w, seed):
    values = random_map(h, w, seed)
    assert HeatMap(values).resize((h, w)).values is values


@given(h=sizes, w=sizes, seed=numbers, a=st.floats(-2, 2), mode=st.sampled_from(["bilinear", "bicubic", "area"]))
def test_resizing_is_linear(h, w, seed, a, mode):
    x, y = random_map(h, w, seed), random_map(h, w, seed + 1)
    both = resize(x + a * y, (7, 11), mode)
    assert torch.allclose(both, resize(x, (7, 11), mode) + a * resize(y, (7, 11), mode), atol=1e-5)


@given(h=sizes, w=sizes, seed=numbers, factor=st.floats(0.1, 9), shift=st.floats(-5, 5))
def test_normalising_forgets_scale_and_shift(h, w, seed, factor, shift):
    values = random_map(h, w, seed)
    plain = HeatMap(values).normalized().values
    assert torch.allclose(HeatMap(values * factor + shift).normalized().values, plain, atol=1e-3)
    assert plain.min() == 0
    assert h * w == 1 or abs(plain.max().item() - 1) < 1e-3


@given(h=st.integers(2, 9), w=st.integers(2, 9), seed=numbers)
def test_a_mask_overlaps_itself_fully_and_its_complement_not_at_all(h, w, seed):
    mask = random_map(h, w, seed) > 0.5
    if mask.any() and not mask.all():
        heat = HeatMap(mask.float())
        assert heat.iou(mask) == 1.0
        assert heat.iou(~mask) == 0.0
        assert heat.iou(mask.numpy()) == 1.0
        assert heat.points_into(mask)
        assert not heat.points_into(~mask)
    assert not HeatMap(torch.ones(4, 4)).points_into(torch.ones(4, 4))  # it has no maximum


def test_overlap_by_hand():
    values = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert HeatMap(values).iou(torch.tensor([[1, 0], [1, 0]])) == pytest.approx(1 / 3)
    assert HeatMap(torch.zeros(2, 2)).iou(torch.zeros(2, 2)) == 0.0


def test_a_faint_map_is_scaled_and_a_constant_one_becomes_0():
    values = torch.eye(3) + 1
    assert torch.equal(HeatMap(torch.eye(3) * 1e-12).normalized().values, torch.eye(3))
    assert torch.equal(HeatMap(values.half()).normalized().values, torch.eye(3).half())
    for dtype in (torch.float16, torch.float32, torch.bool):
        assert HeatMap(torch.ones(2, 2, dtype=dtype)).normalized().values.eq(0).all()


@pytest.mark.parametrize("compare", [HeatMap.iou, HeatMap.points_into])
def test_a_mask_of_another_shape_is_refused(compare):
    heat, picture = torch.eye(4), Image.new("RGB", (32, 16))
    for mask in (torch.ones(4), torch.ones(1, 4, 4), torch.ones(0, 4), np.ones(16)):
        with pytest.raises(ValueError, match=r"a mask is \[h, w\], a number for each place, not \["):
            compare(HeatMap(heat), mask)
    with pytest.raises(ValueError, match=r"the mask is 8×4, and the map is 4×4: give a mask of that size"):
        compare(HeatMap(heat), torch.ones(8, 4))
    with pytest.raises(ValueError, match=r"the mask is 16×16, and the picture is 16×32"):
        compare(HeatMap(heat, "", picture), torch.ones(16, 16))
    for mask in (torch.ones(16, 32), torch.ones(8, 16), torch.ones(4, 4)):  # the picture's ratio, or the map's own size
        assert compare(HeatMap(heat, "", picture), mask)
    assert compare(HeatMap(heat), torch.ones(8, 8))


@pytest.mark.parametrize("size", [64, (64,), (64, 64, 1), 64.0, (64.0, 64), "ab", None])
def test_a_size_is_a_height_and_a_width(size):
    with pytest.raises(ValueError, match=r"a map's size is \(height, width\), such as \(64, 64\), not"):
        HeatMap(torch.eye(4)).resize(size)


def test_a_size_of_nothing():
    with pytest.raises(ValueError, match="height and width are 1 or more, not 0 and 4"):
        HeatMap(torch.eye(4)).resize((0, 4))
    assert HeatMap(torch.eye(4)).resize([np.int64(8), 2]).values.shape == (8, 2)


@given(low=st.floats(0.05, 0.5), more=st.floats(0.0, 0.4), seed=numbers)
def test_a_higher_threshold_keeps_less(low, more, seed):
    heat = HeatMap(random_map(6, 6, seed))
    assert not (heat.mask(low + more) & ~heat.mask(low)).any()


def test_as_a_picture_it_has_the_picture_s_size():
    heat = HeatMap(torch.eye(4), "eye", Image.new("RGB", (32, 16), "white"))
    assert heat.to_image().size == (32, 16)
    assert HeatMap(torch.eye(4)).to_image().size == (4, 4)
    lightness = np.asarray(HeatMap(torch.tensor([[0.0, 0.5, 1.0]])).to_image().convert("L")).ravel()
    assert list(lightness) == sorted(lightness)


def test_an_overlay_is_a_figure_or_goes_on_given_axes():
    from matplotlib.figure import Figure

    heat = HeatMap(torch.eye(4), "eye", Image.new("RGB", (32, 32), "white"))
    figure = heat.overlay()
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_title() == "eye"
    own = Figure()
    axes = own.subplots(1, 2)
    assert heat.overlay(axes[1]) is own
    assert len(axes[1].images) == 1
    assert len(axes[0].images) == 0


def test_where_there_is_no_heat_the_overlay_shows_the_grey_picture():
    dark, light = (HeatMap(torch.eye(4), "", Image.new("RGB", (4, 4), colour)) for colour in ("black", "white"))
    shown = [np.asarray(heat.overlay().axes[0].images[0].get_array()) for heat in (dark, light)]
    assert shown[0][0, 1].mean() < shown[1][0, 1].mean()
    assert np.allclose(shown[0][0, 0], shown[1][0, 0], atol=0.02)
