"""`SelfRefined`: the mean map times a power of the mean self-attention, as it is written."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, SelfAttentionMaps, attributions
from tests.families import stable_diffusion_3
from tests.laws.strategies import run


@pytest.mark.parametrize("power", [0, 1, 3])
def test_it_is_the_product(tiny, power):
    own = run(tiny, AttentionMaps(), SelfAttentionMaps(), height=16, width=24)
    matrix, mean = own[SelfAttentionMaps].matrix(), own[AttentionMaps].heat_map("red").values
    expected = torch.linalg.matrix_power(matrix / matrix.sum(-1, keepdim=True), power) @ mean.flatten()
    found = attributions.SelfRefined(power).heat_map(own, "red").values
    assert found.shape == mean.shape
    assert torch.allclose(found.flatten(), expected, rtol=1e-5, atol=1e-7)


def test_in_joint_attention_rows_are_divided_by_their_sum():
    model = sdprobe.load(stable_diffusion_3())
    own = run(model, AttentionMaps(), SelfAttentionMaps(), prompt="a red circle", height=16, width=24)
    matrix, mean = own[SelfAttentionMaps].matrix(), own[AttentionMaps].heat_map("red").values
    assert (matrix.sum(-1) < 0.999).all()  # the rest goes to the text
    expected = (matrix @ mean.flatten()) / matrix.sum(-1)
    assert torch.allclose(attributions.SelfRefined().heat_map(own, "red").values.flatten(), expected, atol=1e-6)


def test_a_power_below_0_is_refused():
    with pytest.raises(ValueError, match="0 or more, not -1"):
        attributions.SelfRefined(-1)
