"""One attention call: its probabilities by every road are the softmax, and its output is the kernel's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sdprobe.core import attention
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Row
from sdprobe.model.denoiser.sdpa_call import read_sdpa_call

PROMPT = Prompt("", (), (), {})
ROWS = (Row(0, PROMPT, "uncond"), Row(0, PROMPT, "cond"))


def call(mask=None, dtype=torch.float32, keys=9, scale=None):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 16, 8, generator=g).to(dtype)
    k, v = (torch.randn(2, 3, keys, 8, generator=g).to(dtype) for _ in range(2))
    return read_sdpa_call(q, k, v, attn_mask=mask, scale=scale, rows=ROWS)


def softmax(attn):
    scores = attn.query.float() @ attn.key.float().transpose(-1, -2) * attn.scale
    if attn.mask is not None:
        scores = scores.masked_fill(~attn.mask, -torch.inf) if attn.mask.dtype == torch.bool else scores + attn.mask
    return scores.softmax(-1)


MASKS = {
    "none": None,
    "added": torch.linspace(-2, 2, 9).expand(2, 1, 16, 9).contiguous(),
    "boolean": (torch.arange(9) < 5).expand(2, 1, 16, 9).contiguous(),
}


@given(
    tokens=st.one_of(st.none(), st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True)),
    heads=st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)),
    rows=st.sampled_from([None, "cond", "uncond", [1], [0, 1]]),
    mask=st.sampled_from(list(MASKS)),
    scale=st.sampled_from([None, 0.2]),
)
def test_probabilities_are_the_softmax_over_all_keys(tokens, heads, rows, mask, scale):
    attn = call(MASKS[mask], scale=scale)
    r = {"cond": [1], "uncond": [0], None: [0, 1]}.get(rows if not isinstance(rows, list) else "", rows)
    expected = softmax(attn)[r][:, heads or [0, 1, 2]][..., tokens or list(range(9))]
    assert torch.allclose(attn.probs(rows=rows, heads=heads, tokens=tokens), expected, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("asked", [None, [0], list(range(9))])
def test_looking_leaves_the_output_to_the_kernel(mask, asked):
    attn = call(MASKS[mask])
    if asked is not None:
        attn.probs(tokens=asked)
    expected = F.scaled_dot_product_attention(attn.query, attn.key, attn.value, attn_mask=attn.mask)
    assert torch.equal(attn.output(), expected)


@pytest.mark.parametrize("mask", MASKS)
def test_its_own_probabilities_give_its_own_output(mask):
    attn = call(MASKS[mask])
    assert torch.allclose(attn.with_probs(attn.probs()).output(), attn.output(), atol=1e-6)


def test_replaced_probabilities_are_what_is_seen_and_used():
    attn = call()
    uniform = torch.full((2, 3, 16, 9), 1 / 9)
    new = attn.with_probs(uniform)
    assert torch.equal(new.probs(rows="cond", tokens=[2]), uniform[1:, :, :, [2]])
    assert torch.allclose(new.output(), attn.value.mean(-2, keepdim=True).expand(2, 3, 16, 8), atol=1e-6)
    assert torch.equal(new.with_value(attn.value * 2).output(), uniform @ (attn.value * 2))


@given(
    mask=st.sampled_from(list(MASKS)),
    kept=st.lists(st.booleans(), min_size=16 * 5, max_size=16 * 5),
    each=st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 3)]),
    replaced=st.booleans(),
)
def test_masked_is_what_is_left_brought_to_one(mask, kept, each, replaced):
    """With what was kept of the keys, of which the first is; and the boolean mask lets the first five be seen."""
    keep = torch.ones(16, 9, dtype=torch.bool)
    keep[:, 1:6] = torch.tensor(kept).view(16, 5)
    own = call(MASKS[mask])
    attn = own.with_probs(softmax(own)) if replaced else own
    masked = attn.masked(keep.expand(*each, 16, 9))
    left = softmax(own) * keep
    assert torch.allclose(masked.probs(), left / left.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(masked.output(), masked.probs() @ own.value, atol=1e-5)
    assert torch.equal(attn.probs(), own.probs() if not replaced else softmax(own))


def test_masked_by_everything_is_the_same_and_by_itself_is_the_value():
    attn = call(keys=16)
    assert torch.allclose(attn.masked(torch.ones(1, 1, 16, 16, dtype=torch.bool)).output(), attn.output(), atol=1e-6)
    assert torch.equal(attn.masked(torch.eye(16, dtype=torch.bool)[None, None]).output(), attn.value)


def test_a_mask_of_another_form_is_refused():
    for keep in (torch.ones(16, 9, dtype=torch.bool), torch.ones(1, 1, 16, 9), torch.ones(3, 1, 16, 9).bool()):
        with pytest.raises(ValueError, match=r"booleans \[rows, heads, queries, keys\] = \(2, 3, 16, 9\)"):
            call().masked(keep)
    with pytest.raises(ValueError, match="no key to look at"):
        call().masked(torch.zeros(1, 1, 16, 9, dtype=torch.bool))


@pytest.mark.parametrize("seen", ["masked", "replaced", "boolean", "added"])
def test_masks_that_leave_nothing_together_are_refused(seen):
    keep = torch.eye(16, 9, dtype=torch.bool)
    keep[9:, 0] = True  # each query looks at one key
    keep = keep.expand(2, 1, 16, 9)
    attn = {
        "masked": call().masked(keep),
        "replaced": call().with_probs(keep.expand(2, 3, 16, 9).float()),
        "boolean": call(keep),
        "added": call(torch.zeros(2, 1, 16, 9).masked_fill(~keep, -torch.inf)),
    }[seen]
    assert torch.allclose(attn.masked(keep).probs(), keep.float().expand(2, 3, 16, 9))
    with pytest.raises(ValueError, match="no key to look at"):
        attn.masked(~keep)


def test_half_precision_probabilities_are_single():
    attn = call(dtype=torch.bfloat16)
    for tokens in (None, [1]):
        found = attn.probs(tokens=tokens)
        assert found.dtype == torch.float32
        expected = softmax(attn) if tokens is None else softmax(attn)[..., tokens]
        assert torch.allclose(found, expected, atol=2e-2)


def test_probabilities_have_gradients():
    attn = call()
    query = attn.query.clone().requires_grad_()
    own = read_sdpa_call(query, attn.key, attn.value, rows=ROWS)
    (gradient,) = torch.autograd.grad(own.probs(tokens=[1]).sum(), query)
    assert gradient.abs().sum() > 0


def test_wrong_shapes_are_refused():
    attn = call()
    with pytest.raises(ValueError, match=r"\[rows, heads, queries, keys\] = \(2, 3, 16, 9\)"):
        attn.with_probs(torch.zeros(2, 3, 16, 8))
    with pytest.raises(ValueError, match="with_value needs"):
        attn.with_value(torch.zeros(1))


def test_in_blocks_of_queries_the_columns_are_the_same(monkeypatch):
    attn = call(MASKS["added"])
    attn = replace(attn, fused=lambda own: None)
    expected = softmax(attn)[..., [7, 2]]
    for size in (1, 500, 3000, 10**9):
        monkeypatch.setattr(attention, "BLOCK_BYTES", size)
        assert torch.allclose(attn.probs(tokens=[7, 2]), expected, atol=1e-6)
        assert torch.allclose(
            attn.probs("cond", [1], [3], slice(2, 9)), softmax(attn)[1:, [1], 2:9][..., [3]], atol=1e-6
        )


def test_blocks_hold_no_more_than_they_may():
    """What is made on the way to a few columns, beside the arguments."""
    shape = (1, 8, 4096, 8)
    query, key = (torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(2))
    attn = replace(read_sdpa_call(query, key, key), fused=lambda own: None)
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            sizes.append(made.numel() * made.element_size() if isinstance(made, torch.Tensor) else 0)
            return made

    with Sizes():
        attn.probs(tokens=[0, 5])
    assert 2 * max(sizes) <= attention.BLOCK_BYTES  # the scores and their softmax
    assert 4 * attention.BLOCK_BYTES < 4096 * 4096 * 8 * 4


def test_gradients_reach_the_query_through_columns():
    attn = call()
    query = attn.query.clone().requires_grad_()
    own = read_sdpa_call(query, attn.key, attn.value, rows=ROWS)
    (slope,) = torch.autograd.grad(own.probs(tokens=[2])[..., 0].sum(), query)
    (expected,) = torch.autograd.grad(softmax(own)[..., 2].sum(), query)
    assert torch.allclose(slope, expected, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("tokens", [None, [4, 0], slice(1, 5)])
def test_the_mean_over_heads_is_added_to_a_running_sum(mask, tokens):
    attn = call(MASKS[mask])
    expected = attn.probs("cond", tokens=tokens, queries=slice(2, 8)).mean(1)
    total = torch.ones_like(expected)
    attn.add_mean_probs(total, "cond", tokens, slice(2, 8))
    assert torch.allclose(total - 1, expected, atol=1e-6)


def test_grouped_queries_have_a_key_for_several_heads():
    g = torch.Generator().manual_seed(1)
    query = torch.randn(2, 4, 16, 8, generator=g)
    key, value = (torch.randn(2, 2, 9, 8, generator=g) for _ in range(2))
    attn = read_sdpa_call(query, key, value, enable_gqa=True, rows=ROWS)
    alike = read_sdpa_call(query, *(x.repeat_interleave(2, 1) for x in (key, value)), rows=ROWS)
    assert torch.allclose(attn.probs(tokens=[3]), alike.probs(tokens=[3]), atol=1e-6)
    assert torch.equal(attn.output(), F.scaled_dot_product_attention(query, key, value, enable_gqa=True))
    assert torch.allclose(attn.with_probs(attn.probs()).output(), alike.output(), atol=1e-6)
    keep = (torch.arange(9) < 4).expand(1, 1, 16, 9)
    assert torch.allclose(attn.masked(keep).output(), alike.masked(keep).output(), atol=1e-6)


def test_autocast_does_not_lower_the_precision_of_probabilities():
    attn = call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for found in (attn.probs(), attn.probs(tokens=[3]), replace(attn, fused=lambda own: None, _made={}).probs()):
            assert found.dtype == torch.float32
        assert torch.allclose(attn.probs(tokens=[3]), softmax(attn)[..., [3]].float(), atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = attn.probs().sum(-1)
    assert torch.allclose(sums, torch.ones(()), atol=1e-5)


def test_looking_leaves_the_output_that_was_made_before():
    """Rows of it may have been replaced, which the kernel knows nothing of."""
    attn = call()
    made = attn.output()
    attn.probs(tokens=[1])
    assert attn.output() is made


def test_a_bias_is_added_to_the_scores_and_multiplies_replaced_probabilities():
    attn = call()
    bias = torch.randn(1, 1, attn.query.shape[2], attn.key.shape[2], generator=torch.Generator().manual_seed(0))
    scores = attn.scale * attn.query @ attn.key.mT + bias
    biased = attn.biased(bias)
    torch.testing.assert_close(biased.probs(), scores.softmax(-1))
    torch.testing.assert_close(biased.output(), scores.softmax(-1) @ attn.value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attn.with_probs(attn.probs()).biased(bias).probs(), scores.softmax(-1))
    torch.testing.assert_close(biased.biased(-bias).probs(), attn.probs(), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="biased needs numbers"):
        attn.biased(bias[0])


@pytest.mark.parametrize("rows", [(0, 1), (1,)])
def test_what_is_done_to_replaced_probabilities_leaves_other_heads_and_places_exactly(rows):
    probs = torch.rand(2, 3, 16, 9, generator=torch.Generator().manual_seed(0))  # whose sums are not 1
    attn = replace(call(), replaced={row: probs[row] for row in rows})
    keep, bias = torch.ones(2, 3, 16, 9, dtype=torch.bool), torch.zeros(2, 3, 16, 9)
    keep[:, 1, 5, :4], bias[:, 1, 5, :4] = False, 1.0
    others = torch.ones(3, 16, dtype=torch.bool)
    others[1, 5] = False
    for changed in (attn.masked(keep), attn.biased(bias)):
        assert set(changed.replaced) == set(rows)
        for row in rows:
            assert torch.equal(changed.replaced[row][others], probs[row][others])
            assert not torch.allclose(changed.replaced[row][~others], probs[row][~others])
            torch.testing.assert_close(changed.replaced[row].sum(-1), probs[row].sum(-1))


def test_further_keys_share_the_softmax_and_are_not_masked():
    attn = call()
    twice = attn.with_keys(torch.cat([attn.key] * 2, 2), torch.cat([attn.value] * 2, 2))
    torch.testing.assert_close(twice.probs(), torch.cat([attn.probs()] * 2, -1) / 2)
    torch.testing.assert_close(twice.output(), attn.output(), atol=1e-5, rtol=1e-5)
    keep = torch.ones(1, 1, attn.query.shape[2], attn.key.shape[2], dtype=torch.bool)
    keep[..., 0] = False
    masked = attn.masked(keep)
    more = masked.with_keys(
        torch.cat([attn.key, attn.key[:, :, :1]], 2), torch.cat([attn.value] * 2, 2)[:, :, : attn.key.shape[2] + 1]
    )
    assert not more.probs()[..., 0].any()
    torch.testing.assert_close(more.probs()[..., -1], attn.probs()[..., 0])
    assert torch.equal(attn.with_query(attn.query).probs(), attn.probs())
    with pytest.raises(ValueError, match="with_keys needs a value"):
        attn.with_keys(attn.key, attn.value[:, :, :1])


def test_another_context_has_its_own_number_of_tokens_and_its_own_mask():
    def project(context):
        key = context.unflatten(-1, (3, 8)).transpose(1, 2)
        return key, 2 * key

    masked, bare = (replace(call(mask), project=project) for mask in (MASKS["boolean"], None))
    longer, keep = torch.randn(2, 11, 24), torch.arange(11).expand(2, 11) < 7
    with pytest.raises(ValueError, match="9 tokens, which says nothing of 11 others"):
        masked.with_context(longer)
    with pytest.raises(ValueError, match="keep says"):
        masked.with_context(longer, keep[:, :5])
    shown, every = masked.with_context(longer, keep), torch.ones(2, 11, dtype=torch.bool)
    scores = bare.query @ project(longer)[0].mT * bare.scale
    assert torch.allclose(shown.probs(), scores.masked_fill(~keep[:, None, None], -torch.inf).softmax(-1), atol=1e-6)
    assert torch.allclose(shown.output(), shown.probs() @ shown.value, atol=1e-6)
    for unmasked in (bare.with_context(longer), masked.with_context(longer, every)):
        assert torch.allclose(unmasked.output(), scores.softmax(-1) @ project(longer)[1], atol=1e-6)
    assert torch.equal(masked.with_context(longer[:, :9]).mask, masked.mask.expand(2, 3, 16, 9))
