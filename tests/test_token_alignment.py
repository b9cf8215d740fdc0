"""`align_tokens`: the longest common subsequence, and where attention goes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.core.prompt import Prompt
from sdprobe.core.prompt_of_embeddings import PromptOfEmbeddings
from sdprobe.core.token_alignment import align_tokens
from tests.families import FAMILIES

letters = st.text("abc", max_size=7)


def spelt(text):
    """A prompt whose tokens are the letters of a text, with an end and three tokens of padding."""
    ids = (*map(ord, text), 0, 1, 1, 1)
    roles = ("word",) * len(text) + ("end", "pad", "pad", "pad")
    words = {f"{k}": ((k,),) for k in range(len(text))}
    return Prompt(
        text, ids, tuple(map(chr, ids)), words, roles, tuple((k, k + 1) for k in range(len(text))) + ((0, 0),) * 4
    )


def is_subsequence(a, b):
    rest = iter(b)
    return all(letter in rest for letter in a)


@given(letters, letters)
def test_it_is_the_longest_common_subsequence(a, b):
    alignment = align_tokens(spelt(a), spelt(b))
    common = [(i, k) for i, k in alignment.common if i < len(a)]
    assert all(a[i] == b[k] for i, k in common)
    assert all(i < j and k < m for (i, k), (j, m) in pairwise(common))
    lengths = (n for n in range(len(a), -1, -1) if any(is_subsequence(own, b) for own in combinations(a, n)))
    assert len(common) == next(lengths)
    assert alignment.common[len(common) :] == ((len(a), len(b)), *((len(a) + k, len(b) + k) for k in (1, 2, 3)))


@given(letters, letters)
def test_no_attention_is_lost_where_words_are_swapped(a, b):
    alignment = align_tokens(spelt(a), spelt(b))
    if alignment.only_swaps:
        assert torch.allclose(alignment.replacement.sum(1), torch.ones(len(a) + 4))
    else:
        with pytest.raises(ValueError, match=r"in addition to|lacks|in the place of"):
            _ = alignment.replacement
    assert torch.equal(alignment.new, alignment.refinement.sum(0) == 0)


@given(letters)
def test_a_prompt_goes_to_itself(text):
    alignment = align_tokens(spelt(text), spelt(text))
    assert torch.equal(alignment.replacement, torch.eye(len(text) + 4))
    assert torch.equal(alignment.refinement, alignment.replacement)


def test_a_word_of_more_tokens_shares_and_the_padding_moves(embedded):
    red, checkered = map(embedded.read, ["a red circle", "a checkered circle"])
    shares = align_tokens(red, checkered).replacement
    assert shares[2].nonzero().flatten().tolist() == [2, 3]
    assert shares[2, 2] == 0.5
    assert [int(shares[k].argmax()) for k in (0, 1, 3, 4, 5)] == [0, 1, 4, 5, 6]
    assert shares[31].argmax() == 31  # which falls off the end, and goes to the last
    back = align_tokens(checkered, red).replacement
    assert back[:, 2].tolist()[2:4] == [1, 1]
    assert back[:, 31].sum() == 0  # a place more of padding


def test_a_token_of_another_word_is_no_counterpart_in_a_swap():
    """As of "unhappy" and "happy": the words are swapped, and no word is left out."""
    one = Prompt(
        "un x", (5, 6, 7), ("un", "happy", "x"), {"unhappy": ((0, 1),), "x": ((2,),)}, ("word",) * 3, ((0, 1),) * 3
    )
    two = Prompt("x", (6, 7), ("happy", "x"), {"happy": ((0,),), "x": ((1,),)}, ("word",) * 2, ((0, 1),) * 2)
    alignment = align_tokens(one, two)
    assert alignment.common == ((1, 0), (2, 1))
    assert torch.equal(alignment.replacement, torch.tensor([[1.0, 0], [1, 0], [0, 1]]))


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5"])
def test_two_words_in_the_place_of_one_are_no_swap(family):
    read = sdprobe.load(FAMILIES[family]()).read
    alignment = align_tokens(read("a red circle"), read("a red large star"))
    assert not alignment.only_swaps
    with pytest.raises(ValueError, match="has 'large star' in the place of 'circle' in 'a red circle'"):
        _ = alignment.replacement
    assert align_tokens(read("a red circle"), read("a checkered square")).only_swaps  # of other numbers of tokens


def test_prompts_that_differ_in_their_parts_alone_are_aligned_each_for_itself():
    one, halves = (replace(spelt("ab"), parts=parts) for parts in ({"x": range(6)}, {"x": range(2), "y": range(2, 6)}))
    assert one == halves
    with pytest.raises(ValueError, match="attention is taken from a run of the same model"):
        align_tokens(one, halves)
    assert align_tokens(one, one).source.parts != align_tokens(halves, halves).source.parts


@pytest.mark.parametrize("family", ["Stable Diffusion XL", "Stable Diffusion 3.5"])
def test_each_part_of_the_token_axis_is_aligned_by_itself(family):
    model = sdprobe.load(FAMILIES[family]())
    red, large = map(model.read, ["a red circle", "a red circle left of a star"])
    alignment = align_tokens(red, large)
    for name in model.text_encoders:
        ends = [next(i for i in prompt.of(name) if prompt.roles[i] == "end") for prompt in (red, large)]
        assert tuple(ends) in alignment.common
        assert all((i in red.of(name)) == (k in large.of(name)) for i, k in alignment.common)
    assert align_tokens(large, red).said() == "'a red circle' lacks 'left of a star' of 'a red circle left of a star'"


def test_what_is_refused(embedded):
    with pytest.raises(ValueError, match="given prompt_embeds instead of a text"):
        align_tokens(embedded.read("a"), PromptOfEmbeddings.by(torch.zeros(1, 4, 8)))
    with pytest.raises(ValueError, match="attention is taken from a run of the same model"):
        align_tokens(embedded.read("a"), spelt("a"))
