"""The perceptual distance: what the network is given, and the error without lpips."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.experiments.measures import PerceptualDistance
from sdprobe.experiments.measures.perceptual_distance import distance_by
from sdprobe.shapes import scene
from tests.pictured import pictured


@pytest.fixture(scope="module")
def runs(embedded):
    run = sdprobe.sample(embedded, "a red circle", steps=2, seed=0, progress=False)
    return [pictured(run, scene(seed).image) for seed in (0, 1)]


def test_a_network_gets_the_pictures_from_minus_one_to_one(runs):
    def squares(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        assert one.shape == other.shape == (1, 3, 64, 64)
        return (one - other).square().mean()

    pixels, others = (np.asarray(own.images[0]) / 255 for own in runs)
    assert distance_by(squares, *runs) == pytest.approx(4 * np.square(pixels - others).mean(), rel=1e-5)
    assert distance_by(squares, runs[0], runs[0]) == 0
    black, white = (pictured(runs[0], np.full((64, 64, 3), level, np.uint8)) for level in (0, 255))
    assert distance_by(lambda one, other: one.max(), black, white) == -1
    assert distance_by(lambda one, other: other.min(), black, white) == 1


def test_with_the_package_it_is_the_distance_of_its_network(runs):
    """Of a backbone with random weights, so that nothing is downloaded."""
    lpips = pytest.importorskip("lpips", exc_type=ImportError)
    torch.manual_seed(0)
    network = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    one, other = (torch.tensor(np.asarray(own.images[0]) / 255).permute(2, 0, 1)[None].float() for own in runs)
    with torch.no_grad():
        expected = float(network(one, other, normalize=True))
    assert distance_by(network, *runs) == pytest.approx(expected, rel=1e-4)
    assert distance_by(network, runs[0], runs[0]) == 0


def test_without_the_package_it_says_what_to_install(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="pip install lpips torchvision"):
        PerceptualDistance()(*runs)


def test_another_backbone_is_refused():
    with pytest.raises(ValueError, match="'alex', 'vgg', 'squeeze', not 'resnet'"):
        PerceptualDistance("resnet")
