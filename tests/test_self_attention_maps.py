"""`SelfAttentionMaps`: which places look at which."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import SelfAttentionMaps
from tests.laws.strategies import run


class Plain(sdprobe.Observer):
    kinds = ("self",)

    def start(self, run):
        self.kept = []

    def attention(self, attn, site):
        if site.grid == (8, 8):
            self.kept.append(attn.probs(rows="cond").mean(1))


def test_the_matrix_is_the_mean_over_sites_heads_and_steps(tiny):
    maps, plain = SelfAttentionMaps(), Plain()
    result = run(tiny, maps, plain, images_per_prompt=2, steps=3)
    for image in (0, 1):
        expected = torch.stack([own[image] for own in result[plain].kept]).mean(0)
        assert torch.allclose(result[maps].matrix(image), expected, atol=1e-6)
        assert torch.allclose(result[maps].matrix(image).sum(-1), torch.ones(64), atol=1e-5)


def test_a_place_and_a_region(tiny):
    maps = SelfAttentionMaps()
    result = run(tiny, maps, height=16, width=24)
    own = result[maps]
    assert torch.equal(own.heat_map((2, 5)).values.flatten(), own.matrix()[2 * 12 + 5])
    mask = torch.zeros(16, 24)
    mask[4:6, 10:12] = 1  # just the place (2, 5), at the picture's size
    assert torch.allclose(own.heat_map(mask).values, own.heat_map((2, 5)).values, atol=1e-6)
    everywhere = own.heat_map(torch.ones(16, 24)).values
    assert torch.allclose(everywhere.flatten(), own.matrix().mean(0), atol=1e-6)


def test_components_are_the_singular_vectors(tiny):
    maps = SelfAttentionMaps(grids=[4])
    own = run(tiny, maps)[maps]
    matrix = own.matrix()
    centred = matrix - matrix.mean(-1, keepdim=True)
    for component, value in zip(own.components(3), torch.linalg.svdvals(centred), strict=False):
        vector = component.values.flatten()
        assert vector.norm().item() == pytest.approx(1, abs=1e-4)
        assert (centred @ vector).norm().item() == pytest.approx(value.item(), rel=1e-3, abs=1e-6)
        assert vector[vector.abs().argmax()] > 0
    assert len(own.figure(3).axes) == 3


def test_errors(tiny):
    maps = SelfAttentionMaps(grids=[8])
    own = run(tiny, maps)[maps]
    with pytest.raises(ValueError, match=r"grid \(4, 4\) was not recorded"):
        own.matrix(grid=4)
    with pytest.raises(ValueError, match=r"position \(9, 0\) lies outside"):
        own.heat_map((9, 0))
    with pytest.raises(ValueError, match="the mask is empty"):
        own.heat_map(torch.zeros(8, 8))
    nothing = SelfAttentionMaps(grids=[5])
    with pytest.raises(ValueError, match="no self-attention was recorded"):
        run(tiny, nothing)[nothing].matrix()


@pytest.mark.parametrize("at", [[3, 4], "circle", 5, []])
def test_a_place_or_a_region(tiny, at):
    maps = SelfAttentionMaps()
    with pytest.raises(ValueError, match=r"heat_map takes one place \(row, column\), or a mask \[H, W\], not"):
        run(tiny, maps)[maps].heat_map(at)
