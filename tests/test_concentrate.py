"""`Concentrate`: the softmax of scores with a bias, written out; and a circle goes where it is sent."""

from __future__ import annotations

import json
import math

import pytest
import torch

import sdprobe
from sdprobe import Concentrate, WordNotInPrompt, on, only
from sdprobe.shapes.detect import detect
from sdprobe.testing.flat_records import same_run
from tests.families import FAMILIES
from tests.laws.strategies import run

TWO = ["a red circle", "a blue star left of a red ring"]
LEFT = (0.0, 0.0, 0.5, 1.0)


def by_hand(word, strength):
    """Of the left half of the picture, which every grid of two columns or more divides."""

    def attention(attn, site):
        scores = attn.query.float() @ attn.key.float().mT * attn.scale
        if attn.mask is not None:
            scores = scores.masked_fill(attn.mask.float().exp() == 0, -math.inf)
        biased = scores.clone()
        for k, row in enumerate(attn.rows):
            if row.role != "cond" or word not in row.prompt.words:
                continue
            for number, query in enumerate(range(attn.query.shape[2])[site.image]):
                sign = 1 if number % site.grid[1] < site.grid[1] / 2 else -1
                for head in range(site.heads):
                    text = scores[k, head, query, site.text]
                    text = text[text > -math.inf]
                    push = strength * math.log(1 + site.step.sigma) * sign * (text.max() - text.mean())
                    biased[k, head, query, site.tokens(row.prompt.positions(word))] += push
        return attn.with_probs(biased.softmax(-1))

    return on("attention", attention, kinds=("cross", "joint"))


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "PixArt-Σ", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_it_is_the_softmax_of_scores_with_a_bias(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": TWO, "seed": [0, 1], "width": 32, "height": 16}
    concentrated = run(model, Concentrate("circle", LEFT, strength=0.7), **own)
    hand = run(model, by_hand("circle", 0.7), **own)
    assert (concentrated.latents - hand.latents).abs().max() < 2e-5 * hand.latents.abs().max()
    plain = run(model, **own)
    assert not torch.allclose(concentrated.latents[0], plain.latents[0], atol=1e-5)
    assert torch.equal(concentrated.latents[1], plain.latents[1])  # whose prompt has no circle


def test_a_circle_goes_where_it_is_sent(embedded):
    """By its box, and by the mask of the box; and out of it with the sign turned."""
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[32:, 32:] = True
    own = {"prompt": ["a red circle"] * 2, "seed": [0, 1], "steps": 6, "guidance_scale": 5.0}
    for region, strength, inside in (((0.5, 0.5, 1.0, 1.0), 0.5, True), (mask, 0.5, True), (mask, -0.5, False)):
        moved = run(embedded, Concentrate("circle", region, strength=strength), **own)
        for image in moved.images:
            centre = detect(torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(64, 64, 3).numpy())[0].centre
            assert (min(centre) > 32) == inside


def test_several_words_and_no_strength(embedded):
    both = run(embedded, Concentrate({"circle": LEFT, "red": LEFT}))
    apart = run(embedded, Concentrate("circle", LEFT), only(Concentrate("red", LEFT), steps=range(9)))
    assert (both.latents - apart.latents).abs().max() < 1e-4
    assert same_run(run(embedded, Concentrate("circle", LEFT, strength=0)), run(embedded))


def test_it_can_be_written_to_a_file(embedded):
    mask = torch.eye(4, dtype=torch.bool)
    for hook in (Concentrate("circle", LEFT), Concentrate({"circle": mask, "red": LEFT}, strength=2.0, heads=[0])):
        again = sdprobe.from_config(json.loads(json.dumps(sdprobe.to_config(hook))))
        assert same_run(run(embedded, hook), run(embedded, again))


def test_errors(embedded):
    with pytest.raises(WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(embedded, Concentrate("star", LEFT))
    with pytest.raises(ValueError, match="the mask of 'circle' is 2×4, and the places of the picture are"):
        run(embedded, Concentrate("circle", torch.ones(2, 4, dtype=torch.bool)))
    for wrong in ({"word": "circle"}, {"word": {"circle": LEFT}, "box": LEFT}):
        with pytest.raises(ValueError, match="give a word and its region"):
            Concentrate(**wrong)
    with pytest.raises(ValueError, match="a strength is finite"):
        Concentrate("circle", LEFT, strength=math.inf)
    with pytest.raises(ValueError, match="the region of 'circle' is"):
        Concentrate("circle", (0, 0, 0, 1))


def test_of_pure_noise_the_strength_is_that_of_the_step_after(tiny_v):
    """A schedule rescaled to a signal-to-noise ratio of zero begins with an infinite sigma."""
    changed = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = type(tiny_v.pipe.scheduler).from_config(tiny_v.pipe.scheduler.config, **changed)
    sigmas, pushed = [], []

    class Look(sdprobe.Observer):
        modules = ("mid_block*",)
        kinds = ("cross",)

        def attention(self, attn, site):
            sigmas.append(site.step.sigma)
            pushed.append(attn.mask)

    settings = {"scheduler": scheduler, "steps": 3}
    found = run(tiny_v, Concentrate("circle", LEFT), Look(), **settings)
    assert math.isinf(sigmas[0])
    assert torch.isfinite(found.latents).all()
    assert all(torch.isfinite(mask).all() and mask.any() for mask in pushed)
