"""`ShareAttention`: attention to the reference's keys beside one's own, written out; the reference stays."""

from __future__ import annotations

import json
import math

import pytest
import torch

import sdprobe
from sdprobe import (
    AttentionMaps,
    AttentionTemperature,
    InjectSelfAttention,
    SelfAttentionMaps,
    ShareAttention,
    WordNotInPrompt,
    on,
    only,
)
from tests.families import FAMILIES
from tests.grid import SHOWN
from tests.laws.strategies import run

THREE = ["a red circle", "a blue star left of a ring", "a green circle"]
OWN = {"prompt": THREE, "seed": [0, 1, 2], "width": 16, "height": 16}


def adain(x, to):
    """The mean and deviation of ``to`` over its places, for those of ``x``."""
    (mean, mean_to), (spread, spread_to) = (
        [own.mean(1, keepdim=True) for own in (x, to)],
        [(own.var(1, correction=0, keepdim=True) + 1e-5).sqrt() for own in (x, to)],
    )
    return (x - mean) / spread * spread_to + mean_to


def by_hand(source=0, normalise=True, weight=1.0, places=lambda site: slice(None)):
    """For each row the softmax over its own keys and the reference's, the row of its role found by search."""

    def attention(attn, site):
        made, image, seen = attn.output().clone(), site.image, places(site)
        for k, row in enumerate(attn.rows):
            if row.image == source or seen is None:
                continue
            (of,) = [i for i, other in enumerate(attn.rows) if (other.image, other.role) == (source, row.role)]
            query, key = attn.query[k][:, image], attn.key[k].clone()
            if normalise:
                query = adain(query, attn.query[of][:, image])
                key[:, image] = adain(key[:, image], attn.key[of][:, image])
            scores = query @ torch.cat([key, attn.key[of][:, image][:, seen]], 1).mT * attn.scale
            if attn.mask is not None:  # of the text's padding, where prompts have different numbers of tokens
                scores[..., : attn.key.shape[2]].masked_fill_(~attn.mask[k], -math.inf)
            scores[..., attn.key.shape[2] :] += math.log(weight)
            values = torch.cat([attn.value[k], attn.value[of][:, image][:, seen]], 1)
            made[k, :, image] = scores.softmax(-1) @ values
        return attn.with_output(made)

    return on("attention", attention, kinds=("self", "joint"))


class Further(sdprobe.Transform):
    """A further call with a hook that the run itself does not have."""

    def __init__(self, hook):
        self.hook = hook

    def noise_pred(self, x, step):
        step.predict(step.latents, self.hook)
        return x


def assert_alike(a, b):
    assert (a.latents - b.latents).abs().max() < 1e-4 * b.latents.abs().max()


@pytest.mark.parametrize("family", SHOWN)
def test_it_is_attention_to_both(family):
    model = sdprobe.load(FAMILIES[family]())
    shared, plain = run(model, ShareAttention(), **OWN), run(model, **OWN)
    assert_alike(shared, run(model, by_hand(), **OWN))
    assert torch.equal(shared.latents[0], plain.latents[0])
    assert (shared.latents[1:] != plain.latents[1:]).any()


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Flux.1 dev"])
def test_the_reference_and_its_weight_are_chosen(family):
    model, plain = sdprobe.load(FAMILIES[family]()), run(sdprobe.load(FAMILIES[family]()), **OWN)
    found = run(model, ShareAttention(2, adain=False, weight=0.3), **OWN)
    assert_alike(found, run(model, by_hand(2, normalise=False, weight=0.3), **OWN))
    assert torch.equal(found.latents[2], plain.latents[2])
    assert torch.equal(run(model, ShareAttention(weight=0.0), **OWN).latents, plain.latents)


def test_a_picture_that_looks_at_its_equal_stays_as_it_is():
    """Equal keys twice share the softmax: the output is the same."""
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    twice = {"seed": [0, 0], "prompt": ["a red circle"] * 2}
    assert_alike(run(model, ShareAttention(), **twice), run(model, **twice))


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5"])
def test_with_words_only_their_places_are_shared(family):
    model = sdprobe.load(FAMILIES[family]())
    own = OWN | {"guidance_scale": 1.0, "steps": 2}
    grid = {"Stable Diffusion 1": 8, "Stable Diffusion 3.5": 4}[family]
    # Of the first step, in which nothing is shared.
    first = only(AttentionMaps(grids=[grid]), steps=[0])
    hook = ShareAttention(words="red", threshold=0.6)
    shared = run(model, hook, first, **own)
    mask = shared[first].heat_map("red", image=0).mask(0.6)
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(shared[hook].mask, mask)

    def places(site):
        if site.index == 0:
            return None
        covered = torch.nn.functional.adaptive_avg_pool2d(mask[None].float(), site.grid)[0] >= 0.5
        return covered.flatten() if covered.any() else None

    assert_alike(shared, run(model, by_hand(places=places), **own))


def test_it_is_limited_like_any_other_hook():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    plain, hook = run(model, **OWN), ShareAttention()
    some = run(model, only(ShareAttention(1), rows=[1, 2]), **OWN).latents  # images are counted in the whole run
    assert torch.equal(some[:2], plain.latents[:2])
    assert (some[2] - run(model, ShareAttention(1), **OWN).latents[2]).abs().max() < 1e-5
    assert not torch.equal(some[2], plain.latents[2])
    late = run(model, only(hook, steps=[1]), **OWN)
    assert not torch.equal(late.latents, plain.latents)
    assert not torch.equal(late.latents, run(model, hook, **OWN).latents)


def test_hooks_after_it_see_each_picture_by_itself():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    first = only(maps := SelfAttentionMaps(), sites="down_blocks.0.attentions.0.*")
    own = OWN | {"steps": 1, "guidance_scale": 1.0}
    plain, shared = (run(model, *hooks, first, **own)[maps].matrix(1) for hooks in ([], [ShareAttention()]))
    assert torch.equal(plain, shared)


def test_hooks_before_it_are_kept_and_those_after_it_refused():
    """Softer attention to the places of both pictures, written out by its query."""
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    soft, share = AttentionTemperature(2.0, kinds="self"), ShareAttention(adain=False)
    both = run(model, soft, share, **OWN)
    assert_alike(both, run(model, soft, by_hand(normalise=False), **OWN))
    assert not torch.allclose(both.latents[2], run(model, share, **OWN).latents[2], atol=1e-4)
    with pytest.raises(ValueError, match="put hooks that give an output, such as RegionalPrompts and ShareAttention"):
        run(model, share, soft, **OWN)
    replaced = InjectSelfAttention()
    with pytest.raises(ValueError, match=r"has replaced probabilities at .*, which keys of another picture"):
        run(model, replaced, share, **OWN)
    with pytest.raises(ValueError, match="put hooks that give an output"):
        run(model, share, replaced, **OWN)


def test_it_is_written_to_a_file():
    config = json.loads(json.dumps(sdprobe.to_config([ShareAttention(1, words="star", adain=False, weight=2.0)])))
    assert config == [["share-attention", {"reference": 1, "words": ["star"], "adain": False, "weight": 2.0}]]
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    written = ShareAttention(1, words="star", adain=False, weight=2.0)
    assert torch.equal(run(model, *config, **OWN).latents, run(model, written, **OWN).latents)


def test_what_cannot_be_shared_is_refused():
    model = sdprobe.load(FAMILIES["Stable Diffusion 1"]())
    with pytest.raises(ValueError, match="this run has one"):
        run(model, ShareAttention())
    for rows in ([1], [1, 2], [0]):
        with pytest.raises(ValueError, match=r"needs its reference, image 0, and another"):
            run(model, only(ShareAttention(), rows=rows), **OWN)
    with pytest.raises(ValueError, match="by the rows of the prompt, and gets none"):
        run(model, only(ShareAttention(words="red"), rows="uncond"), **OWN)
    with pytest.warns(UserWarning, match="has shared nothing"):
        run(model, only(ShareAttention(words="red"), steps=[1]), **OWN)
    with pytest.raises(ValueError, match="give it to the run itself"):
        run(model, Further(ShareAttention(words="red")), **OWN)
    with pytest.raises(ValueError, match="one of this run's 3 images, counted from 0, not 3"):
        run(model, ShareAttention(3), **OWN)
    with pytest.raises(WordNotInPrompt, match="'star' is not in the prompt 'a red circle'"):
        run(model, ShareAttention(words="star"), **OWN)
    with pytest.raises(ValueError, match="saw no attention to the words"):
        run(model, ShareAttention(words="red", modules="*attn1"), **OWN)
    with pytest.raises(ValueError, match="weight"):
        ShareAttention(weight=-1.0)
    with pytest.raises(ValueError, match="threshold"):
        ShareAttention(words="red", threshold=2.0)
