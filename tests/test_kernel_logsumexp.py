"""The kernel that SDPA would choose, called by name: the same output to the last bit, and log Σ exp beside it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sdprobe.model.denoiser.kernel_logsumexp import KERNELS, _aligned, run_with_logsumexp

MASKS = {
    "none": lambda keys: None,
    "added": lambda keys: torch.linspace(-2, 2, keys).expand(2, 1, 16, keys).contiguous(),
    "boolean": lambda keys: (torch.arange(keys) < keys - 3).expand(2, 1, 16, keys).contiguous(),
}


def random(dtype, width, keys, heads=4, groups=4):
    g = torch.Generator().manual_seed(width + keys)
    query = torch.randn(2, heads, 16, width, generator=g).to(dtype)
    key, value = (torch.randn(2, groups, keys, width, generator=g).to(dtype) for _ in range(2))
    return query, key, value


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "keys"), [(8, 77), (36, 9), (40, 21)])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_it_is_the_kernel_of_sdpa(mask, dtype, width, keys, scale):
    query, key, value = random(dtype, width, keys)
    given = MASKS[mask](keys)
    given = given.to(dtype) if given is not None and given.dtype != torch.bool else given
    made = run_with_logsumexp(query, key, value, given, scale)
    assert made is not None
    assert torch.equal(made.output, F.scaled_dot_product_attention(query, key, value, attn_mask=given, scale=scale))
    scores = query.double() @ key.double().mT * (width**-0.5 if scale is None else scale)
    if given is not None:
        scores = scores.masked_fill(~given, -math.inf) if given.dtype == torch.bool else scores + given.double()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(made.logsumexp.double(), scores.logsumexp(-1), atol=tolerance)


def test_where_gradients_are_wanted_there_is_none():
    query, key, value = random(torch.float32, 8, 9)
    assert run_with_logsumexp(query.requires_grad_(), key, value, None, None) is None


def test_where_sdpa_chooses_no_fused_kernel_there_is_none():
    query, key, value = random(torch.float32, 8, 9)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert run_with_logsumexp(query, key, value, None, None) is None


def test_grouped_queries():
    query, key, value = random(torch.float32, 8, 9, heads=4, groups=2)
    made = run_with_logsumexp(query, key, value, None, None, grouped=True)
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert made is None or torch.equal(made.output, expected)


@pytest.mark.parametrize("keys", [5, 8, 77, 80])
def test_a_mask_is_aligned_without_a_change_of_its_values(keys):
    mask = torch.randn(2, 1, 16, keys, generator=torch.Generator().manual_seed(keys))
    aligned = _aligned(mask)
    assert torch.equal(aligned, mask)
    assert all(stride % 8 == 0 for stride in aligned.stride()[:-1])


def test_every_kernel_of_cuda_is_known_to_this_torch():
    ops = ("flash", "efficient", "cudnn")
    assert all(hasattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention") for name in ops)
    assert len(KERNELS["cuda"]) == len(ops)
