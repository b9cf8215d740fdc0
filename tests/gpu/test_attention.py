"""Attention by every backend of torch's kernel: its probabilities are the softmax, and its output is the kernel's."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Row
from sdprobe.model.denoiser.sdpa_call import read_sdpa_call

pytestmark = pytest.mark.gpu

PROMPT = Prompt("", (), (), {})
ROWS = (Row(0, PROMPT, "uncond"), Row(0, PROMPT, "cond"))
HEADS, QUERIES, KEYS = 3, 96, 77
BACKENDS = {
    "torch's choice": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDTHS = (40, 64, 80, 128, 160, 36)  # the last is no multiple of 8
MASKS = ("none", "added", "boolean")
# Of a probability. A kernel of half precision may approximate the exponentials in its logsumexp.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-4, torch.bfloat16: 1e-4}


def drawn(device, dtype, width, count, seed):
    """As a module makes them: heads are a view of the last axis."""
    x = torch.randn(len(ROWS), count, HEADS * width, generator=torch.Generator().manual_seed(seed))
    return x.to(device, dtype).unflatten(-1, (HEADS, width)).transpose(1, 2)


def mask_of(kind, device, dtype):
    if kind == "none":
        return None
    spread = torch.linspace(-2, 2, KEYS, device=device)
    whole = spread.to(dtype) if kind == "added" else spread < 1
    return whole.expand(len(ROWS), 1, QUERIES, KEYS).contiguous()


def softmax(query, key, mask):
    """In double precision."""
    scores = query.double() @ key.double().mT * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    return scores.softmax(-1)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """One backend, alone."""
    wanted = BACKENDS[request.param]
    with nullcontext() if wanted is None else sdpa_kernel(wanted):
        yield request.param


@pytest.fixture
def call(device, backend, dtype, width, mask):
    """Query, key, value and mask, and what the backend makes of them; skipped where it refuses them."""
    query = drawn(device, dtype, width, QUERIES, 0)
    key, value = (drawn(device, dtype, width, KEYS, seed) for seed in (1, 2))
    given = mask_of(mask, device, dtype)
    try:
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=given)
    except RuntimeError as error:
        pytest.skip(f"{backend} refuses this call: {str(error).splitlines()[0]}")
    return query, key, value, given, output


@pytest.mark.filterwarnings("ignore")  # by which a backend says why it refuses
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_probabilities_are_the_softmax_and_the_output_is_the_kernels(call):
    query, key, value, mask, output = call
    expected = softmax(query, key, mask).float()
    for asked in (
        {},
        {"rows": "cond"},
        {"rows": "cond", "tokens": [2, 5, 70]},
        {"rows": [0, 1], "heads": [2, 0], "tokens": slice(8, 20), "queries": slice(32, 96)},
    ):
        attn = read_sdpa_call(query, key, value, attn_mask=mask, rows=ROWS)
        found = attn.probs(**asked)
        rows = [1] if asked.get("rows") == "cond" else [0, 1]
        heads, tokens = asked.get("heads", slice(None)), asked.get("tokens", slice(None))
        same = expected[rows][:, heads][:, :, asked.get("queries", slice(None))][..., tokens]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, same, rtol=0, atol=TOLERANCE[query.dtype])
        assert torch.equal(attn.output(), output)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_output_is_the_kernels_without_a_look(call):
    query, key, value, mask, output = call
    assert torch.equal(read_sdpa_call(query, key, value, attn_mask=mask, rows=ROWS).output(), output)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_scale_of_its_own(device, dtype):
    query, key, value = (drawn(device, dtype, 64, count, seed) for seed, count in enumerate((QUERIES, KEYS, KEYS)))
    attn = read_sdpa_call(query, key, value, scale=0.3, rows=ROWS)
    expected = (query.double() @ key.double().mT * 0.3).softmax(-1).float()
    torch.testing.assert_close(attn.probs(), expected, rtol=0, atol=TOLERANCE[dtype])
    assert torch.equal(attn.output(), F.scaled_dot_product_attention(query, key, value, scale=0.3))


def test_probabilities_have_gradients(device):
    query, key, value = (
        drawn(device, torch.float32, 40, count, seed) for seed, count in enumerate((QUERIES, KEYS, KEYS))
    )
    query = query.detach().requires_grad_()
    found = read_sdpa_call(query, key, value, rows=ROWS).probs(rows="cond", tokens=[1]).square().sum()
    expected = softmax(query, key, None)[1:, ..., [1]].square().sum()
    (ours,), (theirs,) = (torch.autograd.grad(sum_, query) for sum_ in (found, expected))
    assert theirs.abs().sum() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=TOLERANCE[query.dtype])
