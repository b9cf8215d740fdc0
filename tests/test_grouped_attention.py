"""Grouped queries: a call whose heads share keys is, in everything, the call in which every head has its own copy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention as AttentionModule
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.core.limits.row_subset import rows_of_attention, with_rows
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Row
from sdprobe.model.denoiser.kernel_logsumexp import run_with_logsumexp
from sdprobe.model.denoiser.sdpa_call import project_context, read_sdpa_call
from sdprobe.model.denoiser.token_places import heads_of

PROMPT = Prompt("", (), (), {})
ROWS = (Row(0, PROMPT, "uncond"), Row(0, PROMPT, "cond"))
HEADS, QUERIES, KEYS, WIDTH = 4, 7, 9, 8
MASKS = {
    "none": None,
    "added": torch.linspace(-2, 2, KEYS).expand(2, 1, QUERIES, KEYS).contiguous(),
    "boolean": (torch.arange(KEYS) < 5).expand(2, 1, QUERIES, KEYS).contiguous(),
}
groups = st.sampled_from([1, 2, 4])
masks = st.sampled_from(list(MASKS))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def copied(x: torch.Tensor) -> torch.Tensor:
    """Keys or values with an entry for every head."""
    return x.repeat_interleave(HEADS // x.shape[1], 1)


def project(context: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    key = context[..., : groups * WIDTH].unflatten(-1, (groups, WIDTH)).transpose(1, 2)
    return key, 2 * key


def calls(groups: int, mask: str, fused: bool = True):
    """A call with grouped queries, and the one in which every head has its own key and value."""
    query = random(2, HEADS, QUERIES, WIDTH)
    key, value = (random(2, groups, KEYS, WIDTH, seed=n) for n in (1, 2))
    usual = {"attn_mask": MASKS[mask], "rows": ROWS}
    own = read_sdpa_call(query, key, value, enable_gqa=True, project=lambda context: project(context, groups), **usual)
    alike = read_sdpa_call(
        query, copied(key), copied(value), project=lambda context: tuple(map(copied, project(context, groups))), **usual
    )
    return (own, alike) if fused else (replace(own, fused=lambda attn: None), replace(alike, fused=lambda attn: None))


def more(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x[:, :, 3:5]], 2)


KEEP = torch.arange(KEYS) % 3 != 1
OF_HEADS = (random(2, HEADS, QUERIES, KEYS, seed=3) > 0) | (torch.arange(KEYS) < 2)
CHANGES = {
    "nothing": lambda attn: attn,
    "probs": lambda attn: attn.with_probs(attn.probs() ** 2),
    "mask": lambda attn: attn.masked(KEEP.expand(1, 1, QUERIES, KEYS)),
    "mask of each head": lambda attn: attn.masked(OF_HEADS),
    "bias": lambda attn: attn.biased(random(2, HEADS, QUERIES, KEYS, seed=4)),
    "query": lambda attn: attn.with_query(attn.query.flip(1)),
    "more keys": lambda attn: attn.with_keys(more(attn.key), more(attn.value)),
    "fewer keys": lambda attn: attn.with_keys(attn.key[:, :, :6], attn.value[:, :, :6]),
    "value": lambda attn: attn.with_value(attn.value * 2 + 1),
    "context": lambda attn: attn.with_context(random(2, KEYS, HEADS * WIDTH, seed=5)),
    "another context": lambda attn: attn.with_context(random(2, 5, HEADS * WIDTH, seed=5), KEEP[:5].expand(2, 5)),
    "output": lambda attn: attn.with_output(attn.output() * 2),
    "one row": lambda attn: with_rows(attn, [1], part(attn), part(attn).masked(KEEP.expand(1, 1, QUERIES, KEYS))),
}


def part(attn):
    """The call for its second row alone."""

    class Step:
        rows = ROWS[1:]

    return rows_of_attention(attn, [1], Step())


@given(groups=groups, mask=masks, first=st.sampled_from(list(CHANGES)), then=st.sampled_from(list(CHANGES)))
def test_whatever_is_changed_the_call_is_that_of_copied_keys(groups, mask, first, then):
    of_both = []
    for attn in calls(groups, mask):
        try:
            changed = CHANGES[then](CHANGES[first](attn))
            of_both.append((changed.probs(), changed.probs("cond", [3, 1], slice(1, 4), [2, 0]), changed.output()))
        except (ValueError, RuntimeError) as error:  # what does not fit together is refused, for both
            of_both.append(type(error))
    if type in map(type, of_both):
        assert of_both[0] is of_both[1]
        return
    for found, expected in zip(*of_both, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@given(groups=groups, mask=masks, fused=st.booleans())
def test_probabilities_and_their_mean_by_every_road(groups, mask, fused):
    own, alike = calls(groups, mask, fused)
    scores = alike.query @ alike.key.mT * alike.scale
    if mask != "none":
        given = MASKS[mask]
        scores = scores.masked_fill(~given, -torch.inf) if given.dtype == torch.bool else scores + given
    expected = scores.softmax(-1)
    assert own.probs().shape == (2, HEADS, QUERIES, KEYS)
    assert torch.allclose(own.probs(), expected, atol=1e-6)
    assert torch.allclose(own.probs("cond", heads=[2], tokens=[7, 0]), expected[1:, [2]][..., [7, 0]], atol=1e-6)
    total = torch.ones(1, 3, 2)
    own.add_mean_probs(total, "cond", [7, 0], slice(2, 5))
    assert torch.allclose(total - 1, expected[1:, :, 2:5][..., [7, 0]].mean(1), atol=1e-6)
    if (logsumexp := own.logsumexp()) is not None:
        assert torch.allclose(logsumexp, scores.logsumexp(-1), atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_looking_leaves_the_output_to_the_kernel(groups, mask):
    own, _ = calls(groups, mask)
    expected = F.scaled_dot_product_attention(own.query, own.key, own.value, attn_mask=MASKS[mask], enable_gqa=True)
    own.probs(tokens=[1])
    assert torch.equal(own.output(), expected)
    made = run_with_logsumexp(own.query, own.key, own.value, MASKS[mask], None, grouped=True)
    assert made is None or torch.equal(made.output, expected)


def test_gradients_reach_shared_keys():
    own, alike = calls(2, "none")
    slopes = []
    for attn in (own, alike):
        key = attn.key.clone().requires_grad_()
        found = replace(attn, key=key).probs(tokens=[2])[..., 0].sum()
        slopes.append(torch.autograd.grad(found, key)[0])
    assert torch.allclose(slopes[0], slopes[1].unflatten(1, (2, 2)).sum(2), atol=1e-6)


@pytest.mark.parametrize("copies", [False, True])
def test_a_context_gets_the_heads_of_the_call(copies):
    """Of cross-attention with shared keys, whose processor may copy them for every head by itself."""
    torch.manual_seed(0)
    module = AttentionModule(query_dim=32, cross_attention_dim=12, heads=4, kv_heads=2, dim_head=8)
    context = random(2, 5, 12)
    key, value = project_context(module, "cross", (), context)
    assert key.shape == value.shape == (2, 2, 5, 8)
    assert torch.equal(key.transpose(1, 2).flatten(2), module.to_k(context))
    given = (copied(key), copied(value)) if copies else (key, value)
    attn = read_sdpa_call(
        random(2, 4, 6, 8),
        *given,
        enable_gqa=not copies,
        project=lambda context: project_context(module, "cross", (), context),
    )
    again = attn.with_context(context)
    assert torch.equal(again.key, attn.key)
    assert torch.equal(again.output(), attn.output())


def test_projections_of_shared_keys_have_fewer_heads():
    module = AttentionModule(query_dim=32, heads=4, kv_heads=2, dim_head=8)
    modules = {"attn": module, **{f"attn.{name}": part for name, part in module.named_modules() if name}}
    widths = {name: modules[f"attn.{name}"].out_features for name in ("to_q", "to_k", "to_v")}
    heads = {name: heads_of(modules, f"attn.{name}", "output", torch.zeros(1, 3, n)) for name, n in widths.items()}
    assert heads == {"to_q": 4, "to_k": 2, "to_v": 2}
    assert heads_of(modules, "attn.to_out.0", "input", torch.zeros(1, 3, 32)) == 4
