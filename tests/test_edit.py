"""`edit`: one run of the source and its edits, with the hooks that each needs."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import InjectSelfAttention, RefineAttention, ReplaceAttention, edit
from sdprobe.testing.flat_records import same_run
from tests.families import FAMILIES

RED, GREEN, LARGE = "a red circle", "a green circle", "a large red circle"
SHORT = {"steps": 4, "guidance_scale": 3.0, "progress": False}


def hooks_of(run):
    return [hook for hook, _ in run.records]


def test_it_is_a_run_with_these_hooks(embedded):
    found = edit(embedded, RED, GREEN, seed=3, cross=0.5, self_attention=0.25, grids=[8], **SHORT)
    hooks = [ReplaceAttention(until=0.5), InjectSelfAttention(until=0.25, grids=[8])]
    assert same_run(found, sdprobe.sample(embedded, [RED, GREEN], hooks=hooks, seed=[3, 3], **SHORT))
    assert torch.allclose(found.latents[:1], sdprobe.sample(embedded, RED, seed=3, **SHORT).latents, atol=1e-4)


def test_two_words_in_the_place_of_one_are_refined(embedded):
    found = edit(embedded, RED, [GREEN, "a red large star"], self_attention=0, **SHORT)
    assert [(type(hook), hook.targets) for hook, _ in found.records] == [
        (ReplaceAttention, [1]),
        (RefineAttention, [2]),
    ]


def test_each_edit_has_the_hook_it_needs(embedded):
    latents = sdprobe.LatentRecorder()
    found = edit(embedded, RED, [LARGE, GREEN], hooks=[latents], **SHORT)
    replaced, refined, injected, last = hooks_of(found)
    assert (replaced.targets, refined.targets, injected.targets) == ([2], [1], None)
    assert last is latents
    assert found[latents].indices == [0, 1, 2, 3]
    alone = [edit(embedded, RED, own, **SHORT) for own in (LARGE, GREEN)]
    assert [type(hooks_of(own)[0]) for own in alone] == [RefineAttention, ReplaceAttention]
    for k, own in enumerate(alone, 1):
        assert torch.allclose(found.latents[k], own.latents[1], atol=1e-3)


def test_the_noise_is_the_same_for_all(embedded):
    none = {"cross": 0, "self_attention": 0}
    found = edit(embedded, RED, [RED, GREEN], seed=[5, 6], scheduler="EulerAncestral", **none, **SHORT)
    assert hooks_of(found) == []
    assert torch.equal(found.latents[:2], found.latents[2:4])
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    given = edit(embedded, RED, GREEN, seed=[0, 0], latents=noise, hooks={"start": sdprobe.LatentRecorder()}, **SHORT)
    assert torch.equal(given["start"].at(0)["latents"], noise.repeat(2, 1, 1, 1))


@pytest.mark.parametrize("family", ["Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-Σ"])
def test_families(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"height": 16, "width": 24, "progress": False, "steps": 2}
    found = edit(model, RED, ["a blue circle", "a red circle of a star"], **own)
    plain = sdprobe.sample(model, [RED, "a blue circle", "a red circle of a star"], seed=[0, 0, 0], **own)
    assert torch.equal(found.latents[0], plain.latents[0])
    assert not any(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.latents[1:], plain.latents[1:], strict=True))


def test_the_source_as_its_edit_is_the_source(embedded):
    """Up to rounding: as probabilities times values, and by torch's kernel."""
    found = edit(embedded, RED, RED, cross=1.0, self_attention=1.0, **SHORT)
    assert torch.allclose(found.latents[0], found.latents[1], atol=1e-3)


def test_with_other_hooks_in_one_pass(embedded):
    """A change of the text, gradients, and observers: each acts, and what is recorded is what came of it."""
    swap = sdprobe.only(sdprobe.ReplaceToken("circle", with_="star"), rows=[1])
    loss = sdprobe.LossGuidance(lambda pictures: pictures.mean((1, 2, 3)), 5.0, through="model")
    maps, recorder = sdprobe.AttentionMaps(), sdprobe.AttentionRecorder()
    found = edit(embedded, RED, GREEN, hooks=[swap, loss, maps, recorder], cross=1.0, **SHORT)
    less = [edit(embedded, RED, GREEN, hooks=own, cross=1.0, **SHORT) for own in ([swap], [loss], [])]
    assert not any(torch.allclose(found.latents[1], own.latents[1], atol=1e-3) for own in less)
    assert found[maps].heat_map("green", image=1).values.shape == (16, 16)
    record = found[recorder].record
    for key in record.keys:
        assert torch.equal(record.at(0, key)[0], record.at(0, key)[1])  # the words were swapped one for one


def test_what_is_refused(embedded):
    with pytest.raises(TypeError, match="source is a text, and target a text or several"):
        edit(embedded, RED, [])
    with pytest.raises(ValueError, match="until is the share of the steps"):
        edit(embedded, RED, GREEN, cross=8)


def test_weights_and_blends_are_part_of_it():
    """Weights of words, re-weighted attention and a local blend, in one pass with maps and a recorder."""
    maps, recorder = sdprobe.AttentionMaps(), sdprobe.LatentRecorder()
    run = sdprobe.edit(
        sdprobe.load(),
        "a red circle left of a blue square",
        "a (green:1.2) circle left of a blue square",
        seed=3,
        blend=(["red", "circle"], ["green", "circle"]),
        reweight={"green": 2.0},
        weights=True,
        hooks=[maps, recorder],
        steps=4,
        progress=False,
    )
    assert [prompt.text for prompt in run.prompts][1] == "a green circle left of a blue square"
    assert run[maps].heat_map("green", image=1).values.shape == (16, 16)
    blend = next(own for given, own in run.records if isinstance(given, sdprobe.LocalBlend))
    outside = ~blend.masks[0]
    assert torch.equal(run.latents[1][:, outside], run.latents[0][:, outside])
    assert not torch.equal(run.latents[1], run.latents[0])


def test_what_it_determines_is_refused(embedded):
    with pytest.raises(ValueError, match="an image for each seed: give a list of seeds"):
        edit(embedded, RED, GREEN, images_per_prompt=2, **SHORT)
    with pytest.raises(ValueError, match="the name 'prompt-to-prompt 0' is that of a hook of prompt-to-prompt itself"):
        edit(embedded, RED, GREEN, hooks={"prompt-to-prompt 0": sdprobe.LatentRecorder()}, **SHORT)
