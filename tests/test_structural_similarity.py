"""Structural similarity: scikit-image's number, the paper's equation, and the error without the package."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

import sdprobe
from sdprobe.experiments.measures import StructuralSimilarity
from sdprobe.shapes import scene
from tests.pictured import pictured


@pytest.fixture(scope="module")
def runs(embedded):
    run = sdprobe.sample(embedded, "a red circle", steps=2, seed=0, progress=False)
    return [pictured(run, scene(seed).image) for seed in (0, 1)]


def test_the_same_picture_is_one_and_another_is_less(runs):
    one, other = runs
    assert StructuralSimilarity()(one, one) == 1
    assert StructuralSimilarity()(one, other) == StructuralSimilarity()(other, one) < 0.9


def test_it_is_that_of_scikit_image(runs):
    metrics = pytest.importorskip("skimage.metrics")
    expected = metrics.structural_similarity(
        *(np.asarray(own.images[0]) for own in runs),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert StructuralSimilarity()(*runs) == expected


def test_it_is_equation_13_of_the_paper(runs):
    """With means, variances and covariance in a Gaussian window of 11×11, where the window is within the picture."""
    x, y = (np.asarray(own.images[0]).astype(float) for own in runs)

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, sigma=1.5, truncate=3.5, axes=(0, 1))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert StructuralSimilarity()(*runs) == pytest.approx(index[5:-5, 5:-5].mean(), rel=1e-6)


def test_too_small_a_picture_is_refused(runs):
    small = pictured(runs[0], scene(0).image)
    small.images = [Image.new("RGB", (8, 8))]
    with pytest.raises(ValueError, match="11×11"):
        StructuralSimilarity()(small, small)


def test_without_scikit_image_the_extra_is_named(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ImportError, match=r"pip install \"sdprobe\[analysis\]\""):
        StructuralSimilarity()(*runs)
