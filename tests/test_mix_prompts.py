"""`MixPrompts`: linear in its weights where it acts; with weight 1 it is writing the other prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import MixPrompts
from tests.laws.strategies import run, same_run, seen

texts = st.sampled_from(["a circle", "a star", "a red ring above a star", ""])
weights = st.floats(-2, 2, allow_nan=False, width=16)


def embeds(tiny, *hooks, **settings):
    looking = seen("prompt_embeds")
    return run(tiny, *hooks, looking, steps=1, **settings)[looking].values


@given(text=texts, count=st.integers(1, 3))
def test_weight_one_is_writing_the_other_prompt(tiny, text, count):
    mixed = run(tiny, MixPrompts({text: 1.0}), prompt=["a red circle"] * count)
    assert same_run(mixed, run(tiny, prompt=[text] * count))


@given(a=texts, b=texts, v=weights, w=weights)
def test_linear_in_the_weights(tiny, a, b, v, w):
    if a == b:
        return
    whole = embeds(tiny, MixPrompts({a: v, b: w}))[1]
    parts = v * embeds(tiny, prompt=a)[1] + w * embeds(tiny, prompt=b)[1]
    assert torch.allclose(whole, parts, atol=1e-5)


@given(text=texts)
def test_each_side_has_its_own(tiny, text):
    uncond, cond = embeds(tiny, MixPrompts({text: 1.0}, role="uncond"))
    assert torch.equal(uncond, embeds(tiny, negative_prompt=text)[0])
    assert torch.equal(cond, embeds(tiny)[1])


def test_an_empty_mixture_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        MixPrompts({})
