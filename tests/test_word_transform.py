"""`AtWord`: any change of a word's embeddings lands on that word's positions and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.transform.word_transform import AtWord
from tests.laws.strategies import run, same_run, seen

words = st.sampled_from(["red", "star", "checkered", "ring"])
PROMPT = "a checkered red ring and a red star"


class Constant(AtWord):
    def vectors(self, own, text):
        return torch.full_like(own, 7.0)


@given(word=words, occurrence=st.sampled_from([None, 0, -1]), role=st.sampled_from(["cond", "uncond"]))
def test_it_lands_on_the_word_and_nowhere_else(tiny, word, occurrence, role):
    before, after = seen("token_embeds"), seen("token_embeds")
    plain = run(tiny, before, prompt=PROMPT, negative_prompt=PROMPT)
    edited = run(tiny, Constant(word, occurrence=occurrence, role=role), after, prompt=PROMPT, negative_prompt=PROMPT)
    positions = list(tiny.read(PROMPT).positions(word, occurrence))
    for side, old, new in zip(["uncond", "cond"], plain[before].values, edited[after].values, strict=True):
        expected = old.clone()
        if side == role:
            expected[:, positions] = 7.0
        assert torch.equal(new, expected)


def test_prompts_without_the_word_stay_as_they_are(tiny):
    looking = seen("token_embeds")
    made = run(tiny, Constant("star"), looking, prompt=["a star", "a ring"], guidance_scale=1.0)
    plain = run(tiny, looking, prompt=["a star", "a ring"], guidance_scale=1.0)
    assert torch.equal(made[looking].values[0][1], plain[looking].values[0][1])
    assert not torch.equal(made[looking].values[0][0], plain[looking].values[0][0])


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (torch.zeros(3, 16), "is 3 tokens and 'red' is 1"),
        (torch.zeros(1, 8), r"must be .* = \[1, 16\], not \[1, 8\]"),
        (torch.zeros(2, 2, 16), r"not \[2, 2, 16\]"),
    ],
)
def test_what_does_not_fit_says_what_would(tiny, vectors, said):
    with pytest.raises(ValueError, match=said):
        run(tiny, sdprobe.ReplaceToken("red", with_=vectors))


def test_an_unknown_word_names_the_prompts_words(tiny):
    with pytest.raises(sdprobe.WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(tiny, Constant("hexagon"))


@given(a=words, b=words)
def test_changes_of_different_words_commute(tiny, a, b):
    first, second = sdprobe.ScaleToken(a, 0.5), sdprobe.RandomizeToken(b, seed=3)
    if a != b:
        assert same_run(run(tiny, first, second, prompt=PROMPT), run(tiny, second, first, prompt=PROMPT))
