"""Columns of the softmax added in one launch: the mean over heads of what the whole softmax gives.

Without a GPU the kernel runs in Triton's interpreter, in a process of its own, where Triton is installed: it comes with
torch for CUDA.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sdprobe.core.attention_columns import HAS_TRITON, add_mean_columns

CASES = [
    (2, 2, 70, 30, slice(None), 40),
    (4, 2, 64, 30, [3, 1, 7], 36),
    (3, 3, 65, 100, slice(5, 90), 64),
    (1, 1, 16, 16, [15], 8),
    (2, 1, 16, 20, slice(None), 160),
]


def check(device: str, dtypes: list[torch.dtype]) -> None:
    for heads, groups, queries, keys, tokens, width in CASES:
        for dtype in dtypes:
            g = torch.Generator().manual_seed(0)
            query = torch.randn(2, queries, heads, width, generator=g).transpose(1, 2).to(device, dtype)
            key = torch.randn(2, keys, groups, width, generator=g).transpose(1, 2).to(device, dtype)
            scores = query.double() @ key.double().repeat_interleave(heads // groups, 1).mT * width**-0.5
            expected = scores.softmax(-1)[..., tokens].mean(1)
            total = torch.ones(expected.shape, device=device)
            asked = tokens if isinstance(tokens, slice) else torch.tensor(tokens, device=device)
            add_mean_columns(query, key, scores.logsumexp(-1).float(), asked, width**-0.5, total)
            assert torch.allclose(total.double() - 1, expected, atol=1e-6), (heads, dtype)


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it comes with torch for CUDA")
def test_columns_are_those_of_the_softmax():
    run = "import torch; from tests.test_attention_columns import check; check('cpu', [torch.float32, torch.float16])"
    said = subprocess.run(
        [sys.executable, "-c", run], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_columns_on_a_gpu():
    check("cuda", [torch.float32, torch.float16, torch.bfloat16])


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it comes with torch for CUDA")
def test_a_sum_of_another_shape_is_refused():
    query, key = torch.zeros(1, 2, 16, 8), torch.zeros(1, 2, 9, 8)
    with pytest.raises(ValueError, match=r"the sum has to be fp32 of \[1, 16, 9\], not float32 \[1, 16, 8\]"):
        add_mean_columns(query, key, torch.zeros(1, 2, 16), slice(None), 1.0, torch.zeros(1, 16, 8))
