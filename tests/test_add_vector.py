"""`AddVector`: a step along a direction; back again is where it began."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AddVector, MixTokens, ReplaceToken
from tests.laws.strategies import run, same_run, seen

scales = st.sampled_from([-1.0, 0.25, 0.5, 2.0])


def test_scale_nought_is_the_identity(tiny):
    assert same_run(run(tiny, AddVector("red", torch.randn(16), scale=0.0)), run(tiny))


@given(scale=scales)
def test_along_a_difference_of_words_is_a_mixture(tiny, scale):
    red, blue = sdprobe.embed(tiny, ["red", "blue"]).token[:, 1]
    looking = seen("token_embeds")
    moved = run(tiny, AddVector("red", blue - red, scale=scale), looking)[looking].values[1]
    mixed = run(tiny, MixTokens({"red": 1 - scale, "blue": scale}, at="red"), looking)[looking].values[1]
    assert torch.allclose(moved, mixed, atol=1e-6)


@given(scale=scales)
def test_it_adds_to_what_stands_there(tiny, scale):
    vector, looking = torch.ones(16), seen("token_embeds")
    moved = run(tiny, ReplaceToken("red", with_="blue"), AddVector("red", vector, scale), looking)[looking].values[1]
    replaced = run(tiny, ReplaceToken("red", with_="blue"), looking)[looking].values[1]
    positions = list(tiny.read("a red circle").positions("red"))
    assert torch.equal(moved[:, positions], replaced[:, positions] + scale * vector)
