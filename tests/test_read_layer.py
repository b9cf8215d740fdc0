"""`ReadLayer`: the last layer is the identity; every layer is the encoder's own, after what other hooks changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, BertTokenizerFast, GPT2Config, GPT2Model

import sdprobe
from sdprobe import ReadLayer, ReplaceToken
from sdprobe.model.text.encoder_stages import final_norm, layers_during
from tests.laws.strategies import run, same_run, seen
from tests.tiny import stable_diffusion


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


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "star", "圓", "形", "紅", "色"]


@pytest.fixture(scope="module")
def with_bert():
    """A Stable Diffusion whose text encoder is BERT, as those made for Chinese have."""
    pipe = stable_diffusion()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    pipe.register_modules(
        text_encoder=BertModel(config).eval(),
        tokenizer=BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=16),
    )
    return sdprobe.load(pipe)


def test_the_layers_of_bert(with_bert):
    looking = seen("prompt_embeds")
    encoder = with_bert.pipe.text_encoder
    ids = torch.tensor([with_bert.read("a red circle").ids])
    with torch.no_grad():
        hidden = encoder(ids, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2, -1):
        made = run(with_bert, ReadLayer(layer), looking, steps=1)[looking].values[1]
        assert torch.equal(made, hidden[layer])
    assert same_run(run(with_bert, ReadLayer(-1)), run(with_bert))
    assert same_run(run(with_bert, ReplaceToken("circle", "star")), run(with_bert, prompt="a red star"))
    assert with_bert.read("a red circle").roles[:5] == ("start", "word", "word", "word", "end")
    assert with_bert.read("紅色圓形").positions("圓形") == (3, 4)
    with pytest.raises(ValueError, match="layer 3 is none of text_encoder's 0 to 2"):
        run(with_bert, ReadLayer(3))
    with pytest.raises(ValueError, match="a BertModel does not add token and position embeddings alone"):
        sdprobe.embed(with_bert, "a circle")


def test_an_encoder_built_like_none_that_is_known():
    with (
        pytest.raises(
            ValueError, match="layers of a GPT2Model are not known: it is built like none of CLIP, T5, BERT and Llama"
        ),
        layers_during(GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=8, n_positions=8))),
    ):
        pass
