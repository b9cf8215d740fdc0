"""`Ovam`: the map of any text is what the run's queries would have paid it, and a planted word's is its patch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import sdprobe
from sdprobe import AttentionMaps, AttentionQueries
from sdprobe.attributions import Ovam
from tests.configured import concept
from tests.families import ASKED, FAMILIES
from tests.laws.strategies import run
from tests.planted import latents_for
from tests.planted_families import planted
from tests.planted_outputs import plant_word
from tests.test_planted_families import OF_JOINT, masks

CROSS = [name for name in FAMILIES if not name.startswith(("Flux", *OF_JOINT)) and "frames" not in ASKED.get(name, {})]


class Shown(sdprobe.Observer):
    """At every call, other prompt embeddings in place of the prompt's; all of it in the plainest way."""

    kinds = ("cross",)

    def __init__(self, context, columns):
        self.context, self.columns = context, columns

    def start(self, run):
        self.maps = []

    def attention(self, attn, site):
        shown = replace(attn, mask=None).with_context(self.context.expand(len(attn.query), -1, -1))
        own = shown.probs(rows="cond")[..., self.columns].mean((1, 3))
        self.maps.append(own.unflatten(-1, site.grid))

    def mean(self, image):
        size = max((own.shape[-2:] for own in self.maps), key=lambda shape: shape[0] * shape[1])
        each = [F.interpolate(own[image][None, None], size=size, mode="bilinear")[0, 0] for own in self.maps]
        return torch.stack(each).mean(0)


def told(model, text, keep=("start", "word", "end", "pad")):
    """A text's prompt embeddings of some tokens, by the pipeline itself, and where its words stand among them."""
    roles = model.read(text).roles
    kept = [i for i, role in enumerate(roles) if role in keep]
    return model.encoded([text])["encoder_hidden_states"][0, kept], [
        k for k, i in enumerate(kept) if roles[i] == "word"
    ]


@pytest.mark.parametrize("family", CROSS)
def test_it_equals_the_plainest_recomputation(family):
    model = sdprobe.load(FAMILIES[family]())
    # The transformers of PixArt and Sana are given a mask that hides padding.
    seen = ("start", "word", "end") if family.startswith(("PixArt", "Sana")) else ("start", "word", "end", "pad")
    context, columns = told(model, "a blue star", seen)
    beside, words = told(model, "a ring", seen)
    queries, plain, shown = (
        AttentionQueries(),
        Shown(context, columns),
        Shown(torch.cat([context, beside[words]]), columns),
    )
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": 0, "height": 16, "width": 24, "progress": False}
    result = sdprobe.sample(
        model, ["a red circle", "a"], hooks=[queries, plain, shown], **settings | ASKED.get(family, {})
    )
    for image in (0, 1):
        found = result[queries].heat_map_of("a blue star", image)
        assert torch.allclose(found.values, result[plain].mean(image), atol=1e-6)
        against = result[queries].heat_map_of("a blue star", image, negative="a ring")
        assert torch.allclose(against.values, result[shown].mean(image), atol=1e-6)
        both = result[queries].heat_map_of(["a blue star", "a ring"], image)
        assert torch.equal(both["a blue star"].values, against.values)
        other = result[queries].heat_map_of(["a blue star"], image, negative="a ring", context="a blue star")
        assert torch.equal(other["a blue star"].values, against.values)


@pytest.mark.parametrize("family", CROSS)
def test_in_the_run_s_own_prompt_it_is_the_mean(family):
    model, prompt = sdprobe.load(FAMILIES[family]()), "a red circle of a star"
    maps, queries = AttentionMaps(keep=("step", "layer", "head")), AttentionQueries()
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": 0, "height": 16, "width": 16, "progress": False}
    result = sdprobe.sample(model, prompt, hooks=[maps, queries], **settings | ASKED.get(family, {}))
    own, method = result[maps], Ovam(context=prompt)
    layer = next(iter(result[queries].scales))
    for word, parts in (("star", {}), ("red circle", {"step": 1, "layer": layer, "head": 1})):
        expected = own.heat_map(word, **parts).values
        assert torch.allclose(own.heat_map(word, method=method, **parts).values, expected, atol=1e-6)
        assert torch.allclose(own.heat_map_of(word, context=prompt, **parts).values, expected, atol=1e-6)


@pytest.mark.parametrize("family", CROSS)
def test_the_planted_word_s_map_is_the_planted_patch_though_the_prompt_does_not_have_it(family):
    model = planted(FAMILIES[family]())
    plant_word(model, "star")
    queries = AttentionQueries()
    settings = {"steps": 2, "guidance_scale": 4.0, "height": 16, "width": 24, "progress": False}
    result = sdprobe.sample(
        model, ["a", "a red"], hooks=[queries], latents=latents_for(masks()), **settings | ASKED.get(family, {})
    )
    for image, mask in enumerate(masks()):
        for layer, grid in result[queries].grids_of.items():
            truth = F.interpolate(mask[None, None].float(), grid, mode="area")[0, 0]
            if truth.max() == 1:  # where the grid is too coarse, a cell holds more than the patch
                found = result[queries].heat_map_of("star", image, context="a {}", layer=layer).values
                assert torch.allclose(found, truth, atol=1e-5)
                other = result[queries].heat_map_of("circle", image, context="a {}", layer=layer).values
                assert other.max() < 0.5
        whole = result[queries].heat_map_of("star", image, context="a {}")
        assert whole.resize(tuple(mask.shape)).iou(mask) == 1
        assert whole.points_into(mask)


def test_a_concept_of_the_run_is_read(tiny, reopened):
    use, queries = sdprobe.UseConcept(concept(tiny)), AttentionQueries()
    result = run(tiny, use, queries, AttentionMaps(), prompt="a <new> circle")
    expected = result[AttentionMaps].heat_map("<new>").values
    assert torch.allclose(result[queries].heat_map_of("<new>", context="a <new> circle").values, expected, atol=1e-6)
    assert "<new>" not in tiny.tokenizer.get_vocab()
    own = reopened(result)[AttentionQueries]
    assert torch.equal(own.heat_map_of("a", model=tiny).values, result[queries].heat_map_of("a").values)
    with pytest.raises(ValueError, match="a saved run does not hold its vectors"):
        own.heat_map_of("<new>", model=tiny)


def test_errors(tiny):
    queries = AttentionQueries()
    own = run(tiny, sdprobe.every(2)(queries))[queries]
    with pytest.raises(sdprobe.WordNotInPrompt, match="'star' is not in the prompt 'a red circle'"):
        own.heat_map_of("star", context="a red circle")
    with pytest.raises(ValueError, match="is longer than what is read of it"):
        own.heat_map_of("a " * 40 + "star")
    with pytest.raises(ValueError, match="holds no word"):
        own.heat_map_of("")
    with pytest.raises(ValueError, match="give the text itself"):
        Ovam().heat_map(own.run, 3)
    with pytest.raises(ValueError, match=r"cannot be limited to occurrence; only to step"):
        Ovam().heat_map(own.run, "star", occurrence=1)
    with pytest.raises(ValueError, match="heads, counted from 0"):
        own.heat_map_of("star", head=9)
    assert Ovam().heat_map(own.run, "star").word == "star"
