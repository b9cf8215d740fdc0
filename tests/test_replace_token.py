"""`ReplaceToken`: swapping an embedding is writing the other word."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import ReplaceToken
from tests.laws.strategies import run, same_run

words = st.sampled_from(["red", "blue", "circle", "star", "ring"])


@given(old=words, new=words)
def test_replacing_a_word_is_writing_the_other(tiny, old, new):
    swapped = run(tiny, ReplaceToken(old, with_=new), prompt=f"a {old} in the middle")
    assert same_run(swapped, run(tiny, prompt=f"a {new} in the middle"))


@given(word=words)
def test_replacing_a_word_by_itself_is_the_identity(tiny, word):
    assert same_run(run(tiny, ReplaceToken(word, with_=word), prompt=f"a {word}"), run(tiny, prompt=f"a {word}"))


@given(a=words, b=words)
def test_swaps_of_different_words_commute(tiny, a, b):
    first, second = ReplaceToken("red", with_=a), ReplaceToken("circle", with_=b)
    assert same_run(run(tiny, first, second), run(tiny, second, first))


def test_one_occurrence_or_all(tiny):
    prompt = "a red star and a red ring"
    assert same_run(
        run(tiny, ReplaceToken("red", with_="blue"), prompt=prompt), run(tiny, prompt="a blue star and a blue ring")
    )
    assert same_run(
        run(tiny, ReplaceToken("red", with_="blue", occurrence=1), prompt=prompt),
        run(tiny, prompt="a red star and a blue ring"),
    )


def test_several_tokens(tiny):
    assert same_run(
        run(tiny, ReplaceToken("checkered", with_="drawing"), prompt="a checkered star"),
        run(tiny, prompt="a drawing star"),
    )
    assert not same_run(
        run(tiny, ReplaceToken("checkered", with_="red"), prompt="a checkered star"),
        run(tiny, prompt="a checkered star"),
    )
    with pytest.raises(ValueError, match="'drawing' is 2 tokens and 'star' is 1"):
        run(tiny, ReplaceToken("star", with_="drawing"), prompt="a checkered star")


def test_only_the_prompts_that_hold_the_word_change(tiny):
    prompts = ["a red star", "a blue ring"]
    swapped = run(tiny, ReplaceToken("red", with_="green"), prompt=prompts)
    plain = run(tiny, prompt=prompts)
    assert not torch.equal(swapped.latents[0], plain.latents[0])
    assert torch.equal(swapped.latents[1], plain.latents[1])


def test_the_negative_prompt(tiny):
    swapped = run(tiny, ReplaceToken("star", with_="ring", role="uncond"), negative_prompt="a star")
    assert same_run(swapped, run(tiny, negative_prompt="a ring"))


def test_a_word_that_is_not_there(tiny):
    with pytest.raises(sdprobe.WordNotInPrompt, match="'moon' is not in the prompt 'a red circle'; its words are"):
        run(tiny, ReplaceToken("moon", with_="star"))
    with pytest.raises(sdprobe.WordNotInPrompt, match="occurs 1 times"):
        run(tiny, ReplaceToken("red", with_="star", occurrence=2))


@given(new=words)
def test_a_vector_a_concept_and_its_file_are_the_word_they_hold(tiny, new, tmp_path_factory):
    vector = sdprobe.embed(tiny, new).token[0, 1]
    concept = sdprobe.Concept({"text_encoder": vector.unsqueeze(0)}, "<new>")
    path = concept.save(tmp_path_factory.mktemp("concepts") / "new.safetensors")
    written = run(tiny, ReplaceToken("circle", with_=new))
    for held in (vector, vector.unsqueeze(0), concept, path, str(path)):
        assert same_run(run(tiny, ReplaceToken("circle", with_=held)), written)


def test_a_concept_for_another_encoder(tiny):
    concept = sdprobe.Concept({"text_encoder_2": torch.zeros(1, 16)})
    with pytest.raises(ValueError, match="holds nothing for text_encoder, only for text_encoder_2"):
        run(tiny, ReplaceToken("circle", with_=concept))


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        ReplaceToken("circle", with_="missing.safetensors")
