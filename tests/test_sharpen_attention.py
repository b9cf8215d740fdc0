"""`SharpenAttention`: the formula of its docstring, number by number; and what it keeps."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import ReweightAttention, SharpenAttention, WordNotInPrompt, on, only
from sdprobe.testing.flat_records import same_run
from sdprobe.transform.attention_edits.sharpen_attention import sharpened
from tests.families import FAMILIES
from tests.laws.strategies import run

TWO = ["a red circle", "a blue star left of a red ring"]


def by_hand(positions, power):
    def attention(attn, site):
        probs = attn.probs().double().clone()
        for k, row in enumerate(attn.rows):
            columns = site.tokens(positions(row.prompt)) if row.role == "cond" else ()
            for own in probs[k, :, site.image] if columns else ():  # one head: [places, keys]
                before = own.clone()
                for column in columns:
                    raised = before[:, column] ** power
                    own[:, column] = raised * before[:, column].sum() / raised.sum()
                others = [column for column in range(own.shape[1]) if column not in columns]
                for place in own:
                    asked = place[columns].sum()
                    if asked > 1:
                        place[columns] /= asked
                    place[others] *= (1 - place[columns].sum()) / place[others].sum()
        return attn.with_probs(probs.float())

    return on("attention", attention, kinds=("cross", "joint"))


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_it_is_the_power_of_the_map(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": TWO, "seed": [0, 1], "width": 32, "height": 16}
    hand = run(model, by_hand(lambda prompt: (*prompt.positions("red"), *prompt.positions("a")), 3.0), **own)
    sharp = run(model, SharpenAttention(["red", "a"], 3.0), **own)
    assert (sharp.latents - hand.latents).abs().max() < 1e-5 * hand.latents.abs().max()
    assert not torch.allclose(sharp.latents, run(model, **own).latents, atol=1e-6)


def test_it_stays_a_softmax_and_keeps_what_a_map_sums_to():
    probs = (torch.randn(2, 3, 20, 9, generator=torch.Generator().manual_seed(0)) / 4).softmax(-1)
    words = torch.zeros(2, 1, 1, 9, dtype=torch.bool)
    words[..., 4] = True
    for power in (0.0, 0.5, 1.0, 2.0):
        new = sharpened(probs, words, power)
        torch.testing.assert_close(new.sum(-1), torch.ones(2, 3, 20))
        torch.testing.assert_close(new[..., 4].sum(-1), probs[..., 4].sum(-1))
    torch.testing.assert_close(sharpened(probs, words, 1.0), probs)
    assert (sharpened(probs, words, 0.0)[..., 4].std(-1) < 1e-6).all()
    extreme = sharpened(probs, words, 50.0)
    assert extreme.max() <= 1 + 1e-6
    assert extreme.min() >= 0
    torch.testing.assert_close(extreme.sum(-1), torch.ones(2, 3, 20))
    every = sharpened(probs, torch.ones(9, dtype=torch.bool), 2.0)  # no other token can take what is left
    torch.testing.assert_close(every.sum(-1), torch.ones(2, 3, 20))


def test_what_changes_nothing(embedded):
    own = {"prompt": TWO, "seed": [0, 1]}
    plain, blue = run(embedded, **own), run(embedded, SharpenAttention("blue", 2.0), **own)
    assert same_run(run(embedded, SharpenAttention("red", 1.0), **own), plain)
    assert torch.equal(blue.latents[0], plain.latents[0])
    assert not torch.equal(blue.latents[1], plain.latents[1])
    assert same_run(run(embedded, only(SharpenAttention("blue", 2.0), rows=[1]), **own), blue)
    apart = [run(embedded, SharpenAttention("red", 2.0, heads=heads)) for heads in ([0, 1], range(4))]
    assert same_run(apart[1], run(embedded, SharpenAttention("red", 2.0)))
    assert not same_run(*apart)


def test_errors(embedded):
    with pytest.raises(WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(embedded, SharpenAttention("blue", 2.0))
    with pytest.raises(ValueError, match="put it before that hook"):
        run(embedded, ReweightAttention({"red": -1.0}), SharpenAttention("red", 2.0))
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a power is 0 or more and finite"):
            SharpenAttention("red", wrong)
