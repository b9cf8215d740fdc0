"""`ReadLayer`: the last layer is the identity; every layer is the encoder's own, after what other hooks changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import ReadLayer, ReplaceToken
from sdprobe.model.text.encoder_stages import final_norm
from tests.laws.strategies import run, same_run, seen


@pytest.mark.parametrize("role", ["cond", "uncond"])
def test_the_last_layer_is_the_identity(tiny, role):
    assert same_run(run(tiny, ReadLayer(-1, role)), run(tiny))


@given(layer=st.integers(-3, 2), word=st.sampled_from(["red", "blue"]))
def test_a_layer_is_the_encoders_own_and_sees_swaps(tiny, layer, word):
    looking = seen("prompt_embeds")
    made = run(tiny, ReplaceToken("red", with_=word), ReadLayer(layer), looking, steps=1)[looking].values[1]
    hidden = sdprobe.embed(tiny, f"a {word} circle").hidden_states[layer]
    with torch.no_grad():
        assert torch.equal(made, final_norm(tiny.pipe.text_encoder)(hidden))


def test_a_layer_that_is_not_there(tiny):
    with pytest.raises(ValueError, match="layer 5 is none of text_encoder's 0 to 2"):
        run(tiny, ReadLayer(5))
