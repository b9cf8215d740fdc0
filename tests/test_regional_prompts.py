"""`RegionalPrompts`: the outputs for every prompt, averaged by the shares of the regions, written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, Concentrate, HideTokens, RegionalPrompts, ReweightAttention, Transform, on, only
from sdprobe.shapes import detect
from tests.families import FAMILIES
from tests.laws.strategies import run

CROSS = ("Stable Diffusion 1", "Stable Diffusion XL", "PixArt-Σ")
LEFT, MOST, ALL = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.7, 1.0), (0.0, 0.0, 1.0, 1.0)
TWO = ["a red circle", "a blue star left of a ring"]


def below(size):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[size // 2 :] = True
    return mask


def by_hand(model, texts, shares):
    """Softmax over the tokens of every text, and the mean by ``shares(grid) [texts, places]``; the rest is the run's.

    Keys and values are made by the module's own layers.
    """
    with torch.no_grad():
        told = [model.encoded([text]) for text in texts]

    def attention(attn, site):
        module, made = model.modules[site.name], attn.output().clone()
        parts = shares(site.grid)
        cond = [k for k, row in enumerate(attn.rows) if row.role == "cond"]
        made[cond] *= 1 - parts.sum(0)[:, None]
        for own, part in zip(told, parts, strict=True):
            context = own["encoder_hidden_states"]
            if (inlet := getattr(model.denoiser, "caption_projection", None)) is not None:
                context = inlet(context)
            key, value = (
                layer(context).unflatten(-1, (site.heads, -1)).transpose(1, 2) for layer in (module.to_k, module.to_v)
            )
            scores = attn.query[cond] @ key.mT * attn.scale
            if "encoder_attention_mask" in own:
                scores = scores.masked_fill(own["encoder_attention_mask"][:, None, None] == 0, -torch.inf)
            made[cond] += part[:, None] * (scores.softmax(-1) @ value)
        return attn.with_output(made)

    return on("attention", attention, kinds=("cross",))


@pytest.mark.parametrize("family", CROSS)
def test_it_is_the_mean_of_the_outputs(family):
    model = sdprobe.load(FAMILIES[family]())

    def shares(grid):
        h, w = grid
        cells = torch.arange(w).float()
        first = ((0.7 * w - cells).clamp(0, 1)).expand(h, w)
        rows = torch.arange(h)[:, None].expand(h, w)
        second = ((rows >= h / 2).float() if h > 1 else torch.full((h, w), 0.5)).expand(h, w)
        inside = torch.stack([first, second]).flatten(1)
        return 0.8 * inside / inside.sum(0).clamp(min=1)

    own = {"prompt": TWO, "seed": [0, 1], "width": 16, "height": 16}
    regions = {"a blue ring": MOST, "a green star of a red square": below(16)}
    found = run(model, RegionalPrompts(regions, base=0.2), **own)
    expected = run(model, by_hand(model, list(regions), shares), **own)
    assert (found.latents - expected.latents).abs().max() < 1e-5 * expected.latents.abs().max()
    assert not torch.allclose(found.latents, run(model, **own).latents, rtol=1e-3)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "PixArt-Σ"])
def test_a_region_of_the_whole_picture_is_the_prompt_written(family):
    """On PixArt it has the mask of its own tokens."""
    model = sdprobe.load(FAMILIES[family]())
    text = "a blue star left of a green square"
    whole = run(model, RegionalPrompts({text: ALL}), prompt="a ring")
    written = run(model, prompt=text)
    assert (whole.latents - written.latents).abs().max() < 1e-6 * written.latents.abs().max()


def test_the_role_says_whose_prompt_it_is():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    negative = run(model, RegionalPrompts({"a star": ALL}, role="uncond"))
    assert torch.equal(negative.latents, run(model, negative_prompt="a star").latents)
    with pytest.raises(ValueError, match="no rows of role 'uncond'"):
        run(model, RegionalPrompts({"a star": ALL}, role="uncond"), guidance_scale=1.0)


def test_hooks_after_it_see_the_call_of_the_runs_own_prompt():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    maps, first = AttentionMaps(), {"steps": 1, "guidance_scale": 1.0}
    before = only(maps, sites="down_blocks.0.attentions.0.*")
    plain = run(model, before, **first)[maps].heat_map("red").values
    regional = run(model, RegionalPrompts({"a star": LEFT}), before, **first)[maps]
    assert torch.equal(regional.heat_map("red").values, plain)


def test_hooks_before_it_are_kept_and_those_after_it_refused():
    """What a hook does to words is done to the run's own prompt, and to no other."""
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    regions = RegionalPrompts({"a star": LEFT}, base=0.5)
    for hook in (HideTokens("red"), ReweightAttention({"red": 3.0}), Concentrate("circle", LEFT)):
        both = run(model, hook, regions, steps=1)
        own = run(model, hook, by_hand(model, ["a star"], half_left), steps=1)
        assert (both.latents - own.latents).abs().max() < 1e-5 * own.latents.abs().max()
        assert not torch.allclose(both.latents, run(model, regions, steps=1).latents, rtol=1e-4)
        with pytest.raises(ValueError, match="put hooks that give an output, such as RegionalPrompts"):
            run(model, regions, hook)


def half_left(grid):
    columns = torch.arange(grid[1]).float()
    return (0.5 * (0.5 * grid[1] - columns).clamp(0, 1)).expand(*grid).flatten()[None]


def test_a_mask_fits_where_coarse_grids_are_rounded_up(embedded):
    """Of 72 × 64 pixels the grids are 18 × 16, 9 × 8 and 5 × 4."""
    mask = torch.zeros(72, 64, dtype=torch.bool)
    mask[36:] = True
    for hook in (RegionalPrompts({"a star": mask}), Concentrate("circle", mask)):
        assert run(embedded, hook, height=72, width=64).latents.isfinite().all()


class Further(Transform):
    """A further call with a hook that the run itself does not have."""

    def noise_pred(self, x, step):
        return step.predict(step.latents, RegionalPrompts({"a star": LEFT}))


def test_it_acts_where_it_is_asked_to():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    hook, plain = RegionalPrompts({"a star": LEFT}), run(model)
    assert torch.equal(run(model, RegionalPrompts({"a star": LEFT}, base=1)).latents, plain.latents)
    first = run(model, only(hook, steps=range(1)))
    assert not torch.equal(first.latents, plain.latents)
    assert not torch.equal(first.latents, run(model, hook).latents)
    one = run(model, only(hook, rows=[1]), prompt=TWO, seed=[0, 0]).latents
    plain, both = (run(model, *hooks, prompt=TWO, seed=[0, 0]).latents for hooks in ([], [hook]))
    assert torch.equal(one[0], plain[0])
    assert torch.allclose(one[1], both[1], atol=1e-5)


def test_it_is_written_to_a_file():
    regions = {"a star": LEFT, "a ring": below(4).numpy()}
    config = json.loads(json.dumps(sdprobe.to_config([RegionalPrompts(regions, base=0.3)])))
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    assert torch.equal(run(model, *config).latents, run(model, RegionalPrompts(regions, base=0.3)).latents)


@pytest.mark.parametrize("family", ["Stable Diffusion 3.5", "Flux.1 dev"])
def test_in_joint_attention_it_points_to_the_words_of_one_prompt(family):
    model = sdprobe.load(FAMILIES[family]())
    with pytest.raises(ValueError, match=r"no cross-attention.*HideTokens\(words, places=mask\)"):
        run(model, RegionalPrompts({"a star": LEFT}))
    # Which it does: outside the region the word is not looked at.
    own = {"height": 16, "width": 16, "steps": 1, "guidance_scale": 1.0}
    hidden = run(model, HideTokens("red", places=below(16)), maps := AttentionMaps(), **own)
    heat = hidden[maps].heat_map("red").values
    assert heat[heat.shape[0] // 2 :].max() == 0 < heat[: heat.shape[0] // 2].min()


@pytest.mark.slow
def test_each_thing_is_in_its_region(embedded):
    """Colours that the run's own prompt does not name; without the regions they come together by chance."""
    regions = RegionalPrompts({"a red circle": LEFT, "a blue square": (0.5, 0.0, 1.0, 1.0)}, base=0.5)
    prompts, settings = ["a circle left of a square"] * 4, {"seed": [0, 1, 2, 3], "steps": 15, "progress": False}
    for hooks, expected in (([], 0), ([regions], 4)):
        made = sdprobe.sample(embedded, prompts, hooks=hooks, guidance_scale=5.0, **settings)
        found = [detect(np.asarray(picture)) for picture in made.images]
        sides = [{(own.colour, own.shape, own.centre[0] < 32) for own in each} for each in found]
        assert sum({("red", "circle", True), ("blue", "square", False)} <= each for each in sides) == expected


def test_what_is_no_region_is_refused():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    with pytest.raises(ValueError, match="no regions"):
        RegionalPrompts({})
    with pytest.raises(ValueError, match="from 0 to 1, not 2"):
        RegionalPrompts({"a star": LEFT}, base=2)
    with pytest.raises(ValueError, match="region of 'a star'"):
        RegionalPrompts({"a star": (0, 0, 2, 1)})
    with pytest.raises(ValueError, match="give it to the run itself"):
        run(model, Further())
    with pytest.raises(ValueError, match="4×8"):
        run(model, RegionalPrompts({"a star": torch.ones(4, 8, dtype=torch.bool)}))
