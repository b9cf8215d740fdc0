"""`ScaleHeads`: outputs of heads and columns of their maps, times factors; and heads scaled by 0 are ablated."""

from __future__ import annotations

import json
import math

import pytest
import torch

import sdprobe
from sdprobe import Ablate, ReweightAttention, ScaleHeads, WordNotInPrompt, on
from sdprobe.experiments.head_relevance import head_relevance
from sdprobe.testing.flat_records import same_run
from tests.families import FAMILIES
from tests.laws.strategies import run

OWN = {"prompt": ["a red circle", "a star"], "seed": [0, 1], "width": 32, "height": 16}


def assert_alike(a, b):
    assert (a.latents - b.latents).abs().max() < 1e-5 * b.latents.abs().max()


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "PixArt-Σ", "Stable Diffusion 3.5"])
def test_a_head_scaled_by_0_is_ablated(family):
    model = sdprobe.load(FAMILIES[family]())
    scaled = run(model, ScaleHeads({"*": {1: 0.0}}), ScaleHeads({"*": {1: 0.0}}, role="uncond"), **OWN)
    out = ["*.to_out.0", *(["*.to_add_out"] if "3.5" in family else [])]
    assert_alike(scaled, run(model, Ablate(out, heads=[1], sides="input"), **OWN))
    assert not torch.allclose(scaled.latents, run(model, **OWN).latents, atol=1e-5)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Flux.1 dev"])
def test_it_is_the_output_times_the_factors(family):
    model = sdprobe.load(FAMILIES[family]())

    def attention(attn, site):
        output = attn.output().clone()
        for k, row in enumerate(attn.rows):
            output[k] *= torch.tensor([2.0, -0.5])[:, None, None] if row.role == "cond" else 1
        return attn.with_output(output)

    hook = ScaleHeads({"*": [2.0, -0.5]})
    assert_alike(run(model, hook, **OWN), run(model, on("attention", attention), **OWN))
    weights = ReweightAttention({"red": 3.0})  # a hook that replaces probabilities may stand before and after
    assert_alike(run(model, hook, weights, **OWN), run(model, weights, hook, **OWN))


def test_with_words_it_reweights_them_in_each_head(embedded):
    scaled = run(embedded, ScaleHeads({"*attn2": [3.0, 1.0, 0.0, 1.0]}, words=["red"]))
    apart = (ReweightAttention({"red": 3.0}, heads=[0]), ReweightAttention({"red": 0.0}, heads=[2]))
    assert_alike(scaled, run(embedded, *apart))
    pairs = ScaleHeads({("*attn2", 0): 3.0, ("*attn2", 2): 0.0}, words="red")
    assert same_run(run(embedded, pairs), scaled)
    assert same_run(run(embedded, ScaleHeads({"*attn2": 3.0, "*": {2: 0.0, 0: 1.0}}, words="red")), run(
        embedded, ScaleHeads({"*attn2": [3.0, 3.0, 0.0, 3.0]}, words="red")
    ))  # fmt: skip


def test_factors_of_1_change_nothing(embedded):
    for hook in (ScaleHeads({"*": 1.0}), ScaleHeads({"*attn2": [1, 1, 1, 1]}, words="red")):
        assert same_run(run(embedded, hook), run(embedded))


def test_it_takes_the_relevance_of_heads(tiny):
    settings = {"seeds": range(2), "steps": 2, "progress": False}
    votes = head_relevance(tiny, {"colour": ["red", "blue"], "shape": ["circle", "star"]}, "a red circle", **settings)
    factors = votes.factors("colour")
    every = [factor for own in factors.values() for factor in own]
    assert sum(every) / len(every) == pytest.approx(1)
    (module, head), *_ = votes.ranked("colour")
    assert factors[module][head] == max(every)
    hook = ScaleHeads(factors, words="red")
    assert not same_run(run(tiny, hook), run(tiny))
    again = sdprobe.from_config(json.loads(json.dumps(sdprobe.to_config(hook))))
    assert same_run(run(tiny, hook), run(tiny, again))
    with pytest.raises(ValueError, match="no concept 'size'"):
        votes.factors("size")


def test_errors(embedded):
    with pytest.raises(WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(embedded, ScaleHeads({"*attn2": 2.0}, words="blue"))
    with pytest.raises(ValueError, match=r"'mid\*' has 2 factors, and mid.*attn1 has 4 heads"):
        run(embedded, ScaleHeads({"mid*": [1.0, 2.0]}))
    with pytest.raises(ValueError, match=r"no site that fits 'mid\*' has a head 4; they have up to 4"):
        run(embedded, ScaleHeads({("mid*", 4): 2.0}))
    with pytest.raises(ValueError, match="nowhere"):
        run(embedded, ScaleHeads({"nowhere*": 2.0}))
    with pytest.raises(ValueError, match="no rows of role 'uncond'"):
        run(embedded, ScaleHeads({"*": 2.0}, role="uncond"), guidance_scale=1.0)
    for both in ({"mid*": [1.0, 0.0], ("mid*", 1): 2.0}, {("mid*", 1): 2.0, "mid*": 1.0}):
        with pytest.raises(ValueError, match=r"by the pattern alone, and by the pair \('mid\*', 1\)"):
            ScaleHeads(both)
    for wrong in ({}, [1.0]):
        with pytest.raises(ValueError, match="factors are given by a module's name"):
            ScaleHeads(wrong)
    with pytest.raises(ValueError, match="a factor is finite"):
        ScaleHeads({"*": math.inf})
