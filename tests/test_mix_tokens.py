"""`MixTokens`: linear in its weights where it acts; with weight 1 it is a replacement."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import MixTokens, ReplaceToken
from tests.laws.strategies import run, same_run, seen

words = st.sampled_from(["red", "blue", "circle", "star", "ring"])
weights = st.floats(-2, 2, allow_nan=False, width=16)


def at_the_word(tiny, *hooks):
    looking = seen("token_embeds")
    values = run(tiny, *hooks, looking, guidance_scale=1.0, steps=1)[looking].values[0]
    return values[0, list(tiny.read("a red circle").positions("circle"))]


@given(word=words)
def test_weight_one_is_replacing(tiny, word):
    assert same_run(run(tiny, MixTokens({word: 1.0}, at="circle")), run(tiny, ReplaceToken("circle", with_=word)))


@given(a=words, b=words, v=weights, w=weights)
def test_linear_in_the_weights(tiny, a, b, v, w):
    if a == b:
        return
    whole = at_the_word(tiny, MixTokens({a: v, b: w}, at="circle"))
    parts = v * at_the_word(tiny, MixTokens({a: 1.0}, at="circle")) + w * at_the_word(
        tiny, MixTokens({b: 1.0}, at="circle")
    )
    assert torch.allclose(whole, parts, atol=1e-6)


def test_the_words_are_those_of_the_vocabulary_not_of_other_hooks(tiny):
    mix = MixTokens({"circle": 0.5, "star": 0.5}, at="circle")
    assert same_run(run(tiny, ReplaceToken("circle", with_="ring"), mix), run(tiny, mix))


def test_an_empty_mixture_is_refused():
    with pytest.raises(ValueError, match="at least one word"):
        MixTokens({}, at="circle")


def test_words_of_several_tokens(tiny):
    with pytest.raises(ValueError, match="'checkered' is 2 tokens and 'circle' is 1"):
        run(tiny, MixTokens({"checkered": 1.0}, at="circle"))
    assert same_run(
        run(tiny, MixTokens({"checkered": 1.0}, at="checkered"), prompt="a checkered ring"),
        run(tiny, prompt="a checkered ring"),
    )
