"""Prompts, rows, and the run itself."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.core.run import Row, rows_of
from tests.laws.strategies import run

WORDS = ["a", "red", "circle", "checkered", "drawing", "blue", "corgi", "t-shirt", "ring"]


@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), joint=st.sampled_from([" ", ", ", "  "]))
def test_every_word_is_placed_at_the_tokens_that_spell_it(embedded, words, joint):
    prompt = embedded.read(joint.join(words))
    placed = sorted((positions, word) for word, found in prompt.words.items() for positions in found)
    assert [word for _, word in placed] == words
    for positions, word in placed:
        spelt = "".join(prompt.tokens[i] for i in positions).replace("</w>", "")
        assert spelt == word
        assert all(prompt.roles[i] == "word" for i in positions)
    flat = [p for positions, _ in placed for p in positions]
    assert len(flat) == len(set(flat))


@given(words=st.lists(st.sampled_from(WORDS), min_size=2, max_size=5), first=st.integers(0, 3))
def test_a_phrase_is_its_words(embedded, words, first):
    prompt = embedded.read(" ".join(words))
    start = min(first, len(words) - 2)
    phrase = f"{words[start].upper()}  {words[start + 1]}"
    assert prompt.occurrences(phrase)
    for positions in prompt.occurrences(phrase):
        assert positions == tuple(range(positions[0], positions[-1] + 1))


def test_roles_tell_start_words_end_and_padding(embedded):
    prompt = embedded.read("a red circle")
    assert prompt.roles[:6] == ("start", "word", "word", "word", "end", "pad")
    assert prompt.positions("<start>") == (0,)
    assert prompt.positions("<end>") == (4,)
    assert prompt.positions("<pad>") == tuple(range(5, 32))
    assert prompt.positions(-1) == (31,)


def test_only_whole_words_are_found(embedded):
    prompt = embedded.read("a checkered ring")
    with pytest.raises(sdprobe.WordNotInPrompt, match="'check' is not in the prompt"):
        prompt.positions("check")
    with pytest.raises(sdprobe.WordNotInPrompt, match="32 tokens"):
        prompt.positions(32)


def test_words_past_the_context_are_not_placed(embedded):
    prompt = embedded.read(" ".join(["red"] * 40))
    assert len(prompt.ids) == 32
    assert len(prompt.words["red"]) == 30


def test_rows_have_labels(tiny):
    prompt, empty = tiny.read("a"), tiny.read("")
    rows = [Row(0, empty, "uncond"), Row(1, empty, "uncond"), Row(0, prompt, "cond"), Row(1, prompt, "cond")]
    assert rows_of(rows, "cond") == slice(2, 4)
    assert rows_of(rows, "uncond") == slice(0, 2)
    assert rows_of([rows[0], rows[2], rows[1], rows[3]], "cond") == [1, 3]
    assert rows_of(rows, "image") == []


def test_a_hook_is_told_where_it_is(tiny):
    class Where(sdprobe.Observer):
        def start(self, run):
            self.steps, self.texts, self.sites = [], [], []

        def noise_pred(self, x, step):
            self.steps.append(step)

        def prompt_embeds(self, x, text):
            self.texts.append(text)

        def attention(self, attn, site):
            self.sites.append(site)

    where = Where()
    result = run(tiny, where, prompt=["a star", "a ring"], images_per_prompt=2, negative_prompt="a square")
    seen = result[where]
    assert [(s.index, s.total) for s in seen.steps] == [(0, 2), (1, 2)]
    assert seen.steps[0].sigma > seen.steps[1].sigma > 0
    rows = [(row.image, row.prompt.text, row.role) for row in seen.steps[0].rows]
    texts = ["a star", "a star", "a ring", "a ring"]
    assert rows == [(i, "a square", "uncond") for i in range(4)] + [(i, texts[i], "cond") for i in range(4)]
    assert [(t.role, [p.text for p in t.prompts]) for t in seen.texts] == [
        ("uncond", ["a square", "a square"]),
        ("cond", ["a star", "a ring"]),
    ]
    assert all(step.latents.shape == (4, 4, 8, 8) for step in seen.steps)
    kinds = {(site.kind, site.place, site.grid, site.heads) for site in seen.sites}
    assert ("cross", "down", (8, 8), 2) in kinds
    assert ("self", "mid", (4, 4), 2) in kinds


def test_a_run_says_what_it_was(tiny):
    result = run(tiny, prompt=["a star", "a ring"], seed=None)
    assert isinstance(result.seed, int)
    assert "2 images of 16×16, 2 steps of DDIMScheduler" in repr(result)
    assert run(tiny, prompt=["a star", "a ring"], seed=result.seed).latents.equal(result.latents)


def test_places_can_be_hashed_copied_and_pickled(tiny):
    prompt = tiny.read("a red circle")
    row = Row(0, prompt, "cond")
    assert {row, Row(0, tiny.read("a red circle"), "cond")} == {row}
    assert copy.deepcopy(row) == pickle.loads(pickle.dumps(row)) == row


def test_a_word_past_the_context_is_said_to_be(embedded):
    with pytest.raises(sdprobe.WordNotInPrompt, match="'star' lies past the 32 tokens"):
        embedded.read("red " * 30 + "star").positions("star")


def test_roles_are_known(tiny):
    with pytest.raises(ValueError, match="'conditional' is no role of a row; the roles: cond, uncond, image"):
        rows_of([], "conditional")
