"""`InjectSelfAttention`: the picture's places look at each other as they do in the source."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sdprobe
from sdprobe import AttentionRecorder, InjectSelfAttention, ReplaceAttention
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run
from tests.test_replace_attention import BLUE, FAMILY, RED, SMALL, assert_alike, softmax

TWO = {"prompt": [RED, BLUE], **SMALL, "seed": [0, 0]}


class Plain(sdprobe.Transform):
    """For every place and every place of the edit: the source's."""

    kinds = ("self", "joint")

    def __init__(self, grids=None):
        self.grids = grids

    def attention(self, attn, site):
        if self.grids is not None and site.grid not in self.grids:
            return attn
        probs = softmax(attn)
        new = probs.clone()
        source, edit = (next(k for k, r in enumerate(attn.rows) if (r.image, r.role) == (i, "cond")) for i in (0, 1))
        places = range(attn.query.shape[2])[site.image]
        for place in places:
            for other in places:
                new[edit, :, place, other] = probs[source, :, place, other]
        return attn.with_probs(new)


@pytest.mark.parametrize(("family", "width"), [*((family, 16) for family in FAMILY), ("Stable Diffusion 1", 24)])
def test_it_is_the_plain_algorithm(family, width):
    """In pictures as small as these, at every site."""
    model, asked = sdprobe.load(FAMILIES[family]()), TWO | {"width": width}
    found, without = run(model, InjectSelfAttention(until=1.0), **asked), run(model, **asked)
    assert_alike(found, run(model, Plain(), **asked))
    assert torch.equal(found.latents[0], without.latents[0])
    assert not torch.equal(found.latents[1], without.latents[1])


class Seen(sdprobe.Observer):
    """How the picture's places look at all there is, in the rows of the prompt."""

    kinds = ("joint",)

    def start(self, run):
        self.probs = []

    def attention(self, attn, site):
        self.probs.append(attn.probs(rows="cond", queries=site.image))


def test_with_replaced_words_all_that_a_place_looks_at_is_the_source_s():
    model = sdprobe.load(FAMILIES["Stable Diffusion 3"]())
    hooks = [ReplaceAttention(), InjectSelfAttention(until=1.0), seen := Seen()]
    probs = run(model, *hooks, **{**TWO, "prompt": [RED, RED]})[seen].probs
    assert probs
    assert all(torch.equal(source, edit) for source, edit in probs)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Flux.1 dev"])
def test_a_record_is_as_good_as_the_batch(family):
    model = sdprobe.load(FAMILIES[family]())
    kept = AttentionRecorder(kinds=("self", "joint"), columns="image")
    source = run(model, kept, prompt=RED, **SMALL)
    both, edit = run(model, InjectSelfAttention(), **TWO), run(model, InjectSelfAttention(source), prompt=BLUE, **SMALL)
    assert torch.allclose(edit.latents[0], both.latents[1], atol=1e-4)
    text_alone = run(model, AttentionRecorder(), prompt=RED, **SMALL)
    with pytest.raises(KeyError, match=r"was not recorded in step 0; recorded:.*output, text"):
        run(model, InjectSelfAttention(text_alone), prompt=BLUE, **SMALL)


def test_grids_of_large_pictures(tiny):
    """At most 16 × 16 places, or a quarter of the latents' sides: of 64 × 64 that is the same; or the smallest."""
    found = run(tiny)
    for latents, grids in ((64, [(32, 32)]), (128, [(64, 64)]), (32, [(16, 16)])):
        found.settings = replace(found.settings, height=2 * latents, width=2 * latents)
        assert InjectSelfAttention()._grids(found) == grids


def test_grids(tiny):
    own = {"prompt": [RED, BLUE], "seed": [0, 0]}
    small = InjectSelfAttention(until=1.0, grids=[4])
    assert_alike(run(tiny, small, **own), run(tiny, Plain([(4, 4)]), **own))
    assert same_run(*(run(tiny, InjectSelfAttention(grids=grids), **own) for grids in ([4], [(4, 4)])))
    assert not same_run(*(run(tiny, InjectSelfAttention(grids=grids), **own) for grids in ([4], [4, 8])))
    with pytest.raises(ValueError, match="no site has one of these grids"):
        run(tiny, InjectSelfAttention(grids=[5]), **own)
