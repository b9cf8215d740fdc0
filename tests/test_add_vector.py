"""`AddVector`: a step along a direction; back again is where it began."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AddVector, MixTokens, ReplaceToken
from tests.families import stable_diffusion_xl
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


def test_each_encoder_has_its_own_vector():
    """In SDXL the two stand side by side at `prompt_embeds`: a change for one leaves the other's half as it was."""
    model, looking = sdprobe.load(stable_diffusion_xl()), seen("prompt_embeds")
    settings = {"height": 16, "width": 16, "guidance_scale": 1.0}
    plain = run(model, looking, **settings)[looking].values[0]
    both = {"text_encoder": torch.ones(16), "text_encoder_2": torch.ones(16)}
    one = run(model, AddVector("red", {"text_encoder": torch.ones(16)}), looking, **settings)[looking].values[0]
    assert torch.equal(one[..., 16:], plain[..., 16:])
    assert not torch.equal(one[..., :16], plain[..., :16])
    assert same_run(
        run(model, AddVector("red", both), **settings), run(model, AddVector("red", torch.ones(16)), **settings)
    )
    with pytest.raises(ValueError, match="no 'text_encoder_3'; its encoders: text_encoder, text_encoder_2"):
        run(model, AddVector("red", {"text_encoder_3": torch.ones(16)}), **settings)
