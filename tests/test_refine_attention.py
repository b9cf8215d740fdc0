"""`RefineAttention`: the plain algorithm, written out."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionRecorder, RefineAttention, ReplaceAttention
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run
from tests.test_replace_attention import FAMILY, SMALL, assert_alike, softmax

SHORT, LONG = "a red circle", "a red star left of a circle"


class Plain(sdprobe.Transform):
    """For every place and every token of the edit: the source's, if it has this token, else its own."""

    kinds = ("cross", "joint")

    def __init__(self, counterparts):
        self.counterparts = counterparts

    def attention(self, attn, site):
        if site.text is None:
            return attn
        probs = softmax(attn)
        new = probs.clone()
        first = range(attn.key.shape[2])[site.text].start
        source, edit = (next(k for k, r in enumerate(attn.rows) if (r.image, r.role) == (i, "cond")) for i in (0, 1))
        for place in range(attn.query.shape[2])[site.image]:
            for own, other in self.counterparts:
                new[edit, :, place, first + other] = probs[source, :, place, first + own]
        return attn.with_probs(new)


def counterparts(model):
    """The words that both prompts have are the first, and the last; then comes the padding."""
    a, b = model.read(SHORT), model.read(LONG)
    found = []
    for part in {a.of(name) for name in model.text_encoders if name in a.parts}:
        ends = [next(i for i in part if prompt.roles[i] == "end") for prompt in (a, b)]
        found += [(i, i) for i in range(part.start, a.positions("circle")[-1] + 1) if i in part and i < ends[0] - 1]
        grown = ends[1] - ends[0]
        found += [(i, i + grown) for i in range(ends[0] - 1, part.stop - grown)]
    return found


@pytest.mark.parametrize("family", FAMILY)
def test_it_is_the_plain_algorithm(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": [SHORT, LONG], **SMALL, "seed": [0, 0]}
    found = run(model, RefineAttention(), **own)
    assert_alike(found, run(model, Plain(counterparts(model)), **own))
    assert torch.equal(found.latents[0], run(model, **own).latents[0])
    assert not torch.allclose(found.latents[1], run(model, **own).latents[1], atol=1e-6)


def test_a_record_is_as_good_as_the_batch(tiny, reopened):
    source = run(tiny, AttentionRecorder(), prompt=SHORT)
    both = run(tiny, RefineAttention(), prompt=[SHORT, LONG], seed=[0, 0])
    edit = run(tiny, RefineAttention(source), prompt=LONG)
    assert torch.allclose(edit.latents[0], both.latents[1], atol=1e-4)
    assert same_run(edit, run(tiny, RefineAttention(reopened(source)), prompt=LONG))


def test_a_swapped_word_keeps_its_own(tiny):
    own = {"prompt": [SHORT, "a blue circle"], "seed": [0, 0]}
    refined, replaced = (run(tiny, hook, **own) for hook in (RefineAttention(), ReplaceAttention()))
    assert not torch.allclose(refined.latents, replaced.latents, atol=1e-6)
