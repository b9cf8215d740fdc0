"""Scores against masks: by counting, as scikit-learn, and as daam 0.2.0's own functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from sdprobe import HeatMap
from sdprobe.plot import average_precision, dice, ioa, iou, precision_recall

DAAM = Path(__file__).parent / "daam_0_2_0.safetensors"
"""What ``WordHeatMap.expand_as``, ``compute_iou`` and ``compute_ioa`` of daam 0.2.0 returned for random tensors."""
seeds = st.integers(0, 2**20)


def random_map(h, w, seed):
    return torch.rand(h, w, generator=torch.Generator().manual_seed(seed))


@given(seed=seeds)
def test_scores_of_masks_are_counted(seed):
    a, b = random_map(5, 7, seed) > 0.6, random_map(5, 7, seed + 1) > 0.4
    own, truth = set(map(tuple, a.nonzero().tolist())), set(map(tuple, b.nonzero().tolist()))
    both = len(own & truth)
    assert iou(a, b) == (both / len(own | truth) if own | truth else 0)
    assert ioa(a, b.numpy()) == (both / len(own) if own else 0)
    assert dice(a.float(), b) == (2 * both / (len(own) + len(truth)) if own or truth else 0)


def test_scores_of_a_map_are_those_of_its_mask():
    heat, truth = HeatMap(random_map(4, 6, 0)), random_map(8, 12, 1) > 0.5
    own = heat.resize((8, 12)).mask(0.3, largest=True)
    for score, of_masks in ((heat.iou, iou), (heat.ioa, ioa), (heat.dice, dice)):
        assert score(truth, 0.3, largest=True) == of_masks(own, truth) > 0
    expected = average_precision(heat.resize((8, 12)).values, truth)
    assert heat.average_precision(truth) == heat.precision_recall(truth).area == expected


@given(seed=seeds, levels=st.sampled_from([2, 5, 1000]))
def test_average_precision_is_scikit_learn_s(seed, levels):
    metrics = pytest.importorskip("sklearn.metrics")
    values, truth = (random_map(6, 7, seed) * levels).floor() - 3, random_map(6, 7, seed + 1) > 0.7
    truth[0, 0] = True
    expected = metrics.average_precision_score(truth.flatten(), values.flatten())
    assert average_precision(values, truth) == pytest.approx(expected, abs=1e-12)
    curve = precision_recall(values, truth)
    precision, recall, thresholds = metrics.precision_recall_curve(truth.flatten(), values.flatten())
    # There the curve goes on beyond full recall, as ours, and ends in a point without a threshold.
    assert np.allclose(curve.thresholds.flip(0), thresholds)
    assert np.allclose(curve.precision.flip(0), precision[:-1])
    assert np.allclose(curve.recall.flip(0), recall[:-1])


def test_average_precision_knows_order_only():
    truth = torch.tensor([[1, 1], [0, 0]])
    values = torch.tensor([[0.9, 0.8], [0.1, 0.2]])
    assert average_precision(values, truth) == average_precision(values.square() - 7, truth) == 1
    assert average_precision(torch.ones(2, 2), truth) == 0.5
    figure = HeatMap(values, "it").precision_recall(truth).plot()
    assert figure.axes[0].get_title() == "it: average precision 1.000"


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="masks of one size are compared, not of 2×2 and 2×3"):
        iou(torch.ones(2, 2), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"a mask is \[h, w\]"):
        dice(torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="the mask is empty"):
        HeatMap(torch.eye(2)).average_precision(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"a map of \[2, 3\] and a mask of \[2, 2\]"):
        precision_recall(torch.ones(2, 3), torch.ones(2, 2))
    with pytest.raises(ValueError, match="not finite"):
        average_precision(torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2))


# daam 0.2.0


@pytest.fixture(scope="module")
def daam():
    return load_file(DAAM)


@pytest.mark.parametrize("case", range(12))
def test_a_map_is_expanded_cut_and_scored_as_in_daam(daam, case):
    its = {name.partition(".")[2]: own for name, own in daam.items() if name.startswith(f"{case:02d}.")}
    heat, truth, threshold = HeatMap(its["map"]), its["truth"], its["threshold"].item()
    at_size = heat.resize(tuple(truth.shape))
    assert torch.equal(at_size.normalized().values, its["expanded"])
    assert torch.equal(at_size.mask(threshold), its["cut"])
    # daam divides in float32, after adding 1e-8, which is less than float32 tells apart from a number of places.
    assert np.float32(heat.iou(truth, threshold)) == its["iou"].item()
    assert np.float32(heat.ioa(truth, threshold)) == its["ioa"].item()
    # A mask of another size it resizes bicubically and keeps only what is not below 1; so this must be asked for.
    kept = HeatMap(its["small"].float()).resize(tuple(truth.shape)).values >= 1
    assert np.float32(iou(kept, truth)) == its["small_iou"].item()
    assert np.float32(ioa(kept, truth)) == its["small_ioa"].item()


def test_of_a_picture_that_is_not_square_daam_has_width_and_height_the_wrong_way(daam):
    heat = HeatMap(daam["wide.map"])
    assert heat.values.shape == (6, 9)
    assert daam["wide.expanded"].shape == (36, 24)  # the picture's height is 24, and its width 36
    assert torch.equal(heat.resize((36, 24)).normalized().values, daam["wide.expanded"])
    assert heat.iou(heat.resize((24, 36)).mask()) == 1
    with pytest.raises(ValueError, match="the mask is 36×24, and the map is 6×9"):
        heat.iou(torch.ones(36, 24))
