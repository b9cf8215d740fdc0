"""`ReweightAttention`: columns of the probabilities times their factors, written out."""

from __future__ import annotations

import json
import math

import pytest
import torch

import sdprobe
from sdprobe import ReweightAttention, WordNotInPrompt, on, only
from sdprobe.testing.flat_records import same_run
from tests.families import FAMILIES
from tests.laws.strategies import run

TWO = ["a red circle", "a blue star left of a red ring and a red star"]


def by_hand(weights, heads=None):
    """Each probability of the picture's queries times the factors of the words that its token is of."""

    def attention(attn, site):
        probs = attn.probs().clone()
        for k, row in enumerate(attn.rows):
            for word, weight in weights.items() if row.role == "cond" else ():
                for position in row.prompt.positions(word) if word in row.prompt.words else ():
                    for head in range(site.heads) if heads is None else heads:
                        probs[k, head, site.image, site.tokens([position])[0]] *= weight
        return attn.with_probs(probs)

    return on("attention", attention, kinds=("cross", "joint"))


def assert_alike(a, b):
    assert (a.latents - b.latents).abs().max() < 1e-5 * b.latents.abs().max()


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_it_is_the_probabilities_times_the_factors(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": TWO, "seed": [0, 1], "width": 32, "height": 16}
    weights = {"red": 3.0, "star": -0.5, "ring": 0.0}
    reweighted = run(model, ReweightAttention(weights), **own)
    assert_alike(reweighted, run(model, by_hand(weights), **own))
    assert not torch.allclose(reweighted.latents, run(model, **own).latents, atol=1e-5)


def test_heads_phrases_and_positions(embedded):
    assert_alike(run(embedded, ReweightAttention({"red": 2.0}, heads=[1])), run(embedded, by_hand({"red": 2.0}, [1])))
    phrase = run(embedded, ReweightAttention({"red circle": 2.0, "red": 1.5}))
    assert_alike(phrase, run(embedded, by_hand({"red": 3.0, "circle": 2.0})))
    (position,) = embedded.read("a red circle").positions("red")
    assert same_run(run(embedded, ReweightAttention({position: 2.0})), run(embedded, ReweightAttention({"red": 2.0})))


def test_a_factor_of_one_and_prompts_without_the_word_change_nothing(embedded):
    own = {"prompt": ["a red circle", "a blue star"], "seed": [0, 1]}
    plain, blue = run(embedded, **own), run(embedded, ReweightAttention({"blue": 2.0}), **own)
    assert torch.equal(blue.latents[0], plain.latents[0])
    assert not torch.equal(blue.latents[1], plain.latents[1])
    assert same_run(run(embedded, ReweightAttention({"red": 1, "blue": 1.0}), **own), plain)
    assert same_run(run(embedded, only(ReweightAttention({"blue": 2.0}), rows=[1]), **own), blue)


def test_two_hooks_are_one_with_both(embedded):
    apart = run(embedded, ReweightAttention({"red": 2.0}), ReweightAttention({"circle": 0.5}))
    assert_alike(apart, run(embedded, ReweightAttention({"red": 2.0, "circle": 0.5})))


def test_it_can_be_written_to_a_file(embedded):
    for weights in ({"red": 2.0}, {"red": 2.0, 3: 0.5}):
        hook = ReweightAttention(weights)
        again = sdprobe.from_config(json.loads(json.dumps(sdprobe.to_config(hook))))
        assert same_run(run(embedded, hook), run(embedded, again))


def test_errors(embedded):
    with pytest.raises(WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(embedded, ReweightAttention({"red": 2.0, "blue": 2.0}))
    with pytest.raises(ValueError, match="no rows of role 'uncond'"):
        run(embedded, ReweightAttention({"red": 2.0}, role="uncond"), guidance_scale=1.0)
    with pytest.raises(ValueError, match="the factor of 'red' is finite, not nan"):
        ReweightAttention({"red": math.nan})
    with pytest.raises(ValueError, match="there are no words"):
        ReweightAttention({})
    for wrong in ({"red": "much"}, "red", ["red"]):
        with pytest.raises(TypeError, match=r"the factor of|words with their factors"):
            ReweightAttention(wrong)
