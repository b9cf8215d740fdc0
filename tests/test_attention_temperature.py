"""`AttentionTemperature`: the softmax of scores that are divided by T, written out."""

from __future__ import annotations

import math

import pytest
import torch

import sdprobe
from sdprobe import AttentionTemperature, ReweightAttention, on, only
from sdprobe.testing.flat_records import same_run
from tests.families import FAMILIES
from tests.laws.strategies import run


def by_hand(temperature, heads=None, **limits):
    def attention(attn, site):
        scores = attn.query.float() @ attn.key.float().mT * attn.scale / temperature
        if attn.mask is not None:
            scores = scores + torch.zeros_like(scores).masked_fill(attn.mask.float().exp() == 0, -math.inf)
        probs, new = attn.probs().clone(), scores.softmax(-1)
        for head in range(site.heads) if heads is None else heads:
            probs[:, head] = new[:, head]
        return attn.with_probs(probs)

    return only(on("attention", attention, kinds=limits.pop("kinds", None)), steps=range(9), **limits)


def assert_alike(a, b):
    assert (a.latents - b.latents).abs().max() < 1e-5 * b.latents.abs().max()


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "PixArt-Σ", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_it_is_the_softmax_of_divided_scores(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": ["a red circle", "a star"], "seed": [0, 1], "width": 32, "height": 16}
    tempered = run(model, AttentionTemperature(2.0), **own)
    assert_alike(tempered, run(model, by_hand(2.0), **own))
    assert not torch.allclose(tempered.latents, run(model, **own).latents, atol=1e-5)


def test_heads_kinds_and_rows(embedded):
    hook = AttentionTemperature(0.5, heads=[0, 3], kinds="cross", role="cond")
    assert_alike(run(embedded, hook), run(embedded, by_hand(0.5, [0, 3], kinds=("cross",), rows="cond")))
    assert same_run(run(embedded, AttentionTemperature(1.0)), run(embedded))
    itself = run(embedded, only(AttentionTemperature(0.5), rows="cond"))
    assert same_run(itself, run(embedded, AttentionTemperature(0.5, role="cond")))


def test_probabilities_that_another_hook_has_replaced_become_a_power(embedded):
    """Of the model's own probabilities the power 1/T is the same as the temperature."""
    same = on("attention", lambda attn, site: attn.with_probs(attn.probs()))
    assert_alike(run(embedded, same, AttentionTemperature(2.0)), run(embedded, AttentionTemperature(2.0)))
    kept = []
    record = on("attention", lambda attn, site: kept.append(attn.probs().sum(-1)) or attn, kinds=("cross",))
    run(embedded, ReweightAttention({"red": 3.0}), record, AttentionTemperature(2.0), record, steps=1)
    for before, after in zip(kept[::2], kept[1::2], strict=True):
        torch.testing.assert_close(before, after)


def test_errors(embedded):
    for wrong in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="a temperature is above 0 and finite"):
            AttentionTemperature(wrong)
    with pytest.raises(ValueError, match="'text' is no kind of attention; the kinds: cross, self, joint"):
        AttentionTemperature(2.0, kinds="text")
    with pytest.raises(ValueError, match="no rows of role 'uncond'"):
        run(embedded, AttentionTemperature(2.0, role="uncond"), guidance_scale=1.0)
    with pytest.raises(ValueError, match="none of its sites has a head 4; they have up to 4"):
        run(embedded, AttentionTemperature(2.0, heads=[4]))
    with pytest.raises(ValueError, match="put it before that hook"):
        run(embedded, ReweightAttention({"red": -1.0}), AttentionTemperature(2.0))
    with pytest.raises(TypeError, match="heads are whole numbers"):
        AttentionTemperature(2.0, heads=3)
    with pytest.raises(ValueError, match="chooses nothing"):
        AttentionTemperature(2.0, heads=[])
