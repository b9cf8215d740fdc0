"""`embed`: every stage is the encoder's own, and what comes after a word never reaches what lies before it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from tests.laws.strategies import run, seen

vocabulary = st.sampled_from(["red", "blue", "circle", "star", "ring", "checkered", "above"])
prompts = st.lists(vocabulary, min_size=1, max_size=6).map(" ".join)


@given(prompt=prompts)
def test_stages_are_the_encoders_own(tiny, prompt):
    made, encoder = sdprobe.embed(tiny, prompt), tiny.pipe.text_encoder
    with torch.no_grad():
        own = encoder(torch.tensor([tiny.read(prompt).ids]), output_hidden_states=True)
    assert torch.equal(made.last_hidden_state, own.last_hidden_state)
    assert torch.equal(made.pooled, own.pooler_output)
    assert all(map(torch.equal, made.hidden_states, own.hidden_states))
    assert torch.equal(made.input, made.token + made.position)
    assert torch.equal(made.hidden_states[0], made.input)
    end = tiny.read(prompt).roles.index("end")
    assert torch.equal(made.pooled, made.last_hidden_state[:, end])


@given(prompt=prompts)
def test_input_embeddings_sent_through_give_the_encoders_own_output(tiny, prompt):
    made = sdprobe.embed(tiny, prompt)
    again = sdprobe.embed(tiny, prompt, input=made.input)
    assert torch.equal(again.last_hidden_state, made.last_hidden_state)
    assert torch.equal(again.pooled, made.pooled)
    assert all(map(torch.equal, again.hidden_states, made.hidden_states))


@given(prompt=prompts, other=st.integers(0, 600), data=st.data())
def test_the_causal_law(tiny, prompt, other, data):
    """Replacing the token at position k changes no output before k."""
    made = sdprobe.embed(tiny, prompt)
    k = data.draw(st.integers(1, made.input.shape[1] - 1))
    changed = made.input.clone()
    changed[:, k] = tiny.pipe.text_encoder.get_input_embeddings().weight[other].detach() + made.position[k]
    after = sdprobe.embed(tiny, prompt, input=changed)
    for old, new in zip(made.hidden_states, after.hidden_states, strict=True):
        assert torch.equal(old[:, :k], new[:, :k])
    if not torch.equal(changed, made.input):
        assert not torch.equal(made.last_hidden_state[:, k:], after.last_hidden_state[:, k:])


def test_it_is_what_hooks_are_given(tiny):
    tokens, final = seen("token_embeds"), seen("prompt_embeds")
    made = run(tiny, tokens, final, steps=1, guidance_scale=1.0)
    stages = sdprobe.embed(tiny, "a red circle")
    assert torch.equal(stages.token, made[tokens].values[0])
    assert torch.equal(stages.last_hidden_state, made[final].values[0])


def test_several_prompts_and_input_of_another_shape(tiny):
    assert sdprobe.embed(tiny, ["a star", "a ring"]).pooled.shape == (2, 16)
    with pytest.raises(ValueError, match=r"input must be \[1, 16, 16\]"):
        sdprobe.embed(tiny, "a star", input=torch.zeros(2, 16, 16))


def test_within_a_run_it_says_what_to_ask_there(tiny):
    class Embed(sdprobe.Observer):
        def prompt_embeds(self, x, text):
            sdprobe.embed(tiny, "a star")

    with pytest.raises(RuntimeError, match=r"embed cannot be called by a hook .*text.encode\(\[...\]\) gives"):
        run(tiny, Embed())
    assert sdprobe.embed(tiny, "a star").prompts[0].text == "a star"
