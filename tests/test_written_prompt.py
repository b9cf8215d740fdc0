"""Prompts as JSON, and back: of one text, of several, of embeddings alone."""

from __future__ import annotations

import json

import pytest
import torch

import sdprobe
from sdprobe import WordNotInPrompt, attach
from sdprobe.core.prompt_of_embeddings import PromptOfEmbeddings
from sdprobe.core.written_prompt import read_prompt, write_prompt
from tests.families import FAMILIES
from tests.grid import SHOWN


def round_trip(prompt):
    return read_prompt(json.loads(json.dumps(write_prompt(prompt), allow_nan=False)))


TEXTS = ("", "a red circle", "a ring, a RING and a <ring>", "ΑΒΓ 日本 \x00 <script>", "star " * 40)


@pytest.mark.parametrize("family", SHOWN)
@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_of_any_family_comes_back(family, text):
    prompt = sdprobe.load(FAMILIES[family]()).read(text)
    back = round_trip(prompt)
    assert type(back) is type(prompt)
    assert back == prompt
    assert back.parts == prompt.parts  # which are not compared
    assert back.cut == prompt.cut
    assert hash(back) == hash(prompt)
    for word in (*prompt.words, "<start>", "<end>", "<pad>"):
        assert back.occurrences(word) == prompt.occurrences(word)


def test_several_texts_come_back():
    pipe = FAMILIES["Stable Diffusion 3.5"]()
    pipe.set_progress_bar_config(disable=True)
    with attach(pipe) as run:
        pipe("a red circle", prompt_3="a blue star", num_inference_steps=1, height=16, width=16)
    (prompt,) = run.prompts
    back = round_trip(prompt)
    assert back == prompt
    assert back.texts == prompt.texts
    assert back.text_for("text_encoder_3") == "a blue star"
    assert back.positions("star") == prompt.positions("star")
    assert [(start, own.text) for start, own in back.readings] == [(start, own.text) for start, own in prompt.readings]
    assert back.parts == prompt.parts


def test_a_prompt_of_embeddings_says_still_what_is_not_known():
    prompt = PromptOfEmbeddings.by(torch.zeros(1, 4, 8))
    back = round_trip(prompt)
    assert back == prompt
    assert back.positions(3) == (3,)
    with pytest.raises(WordNotInPrompt, match="prompt_embeds instead of a text"):
        back.positions("circle")
    with pytest.raises(WordNotInPrompt, match="prompt_embeds instead of a text"):
        list(back.words)


WRITTEN = write_prompt(sdprobe.load().read("a red circle"))


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "other"},
        {"kind": "texts"},  # without its texts
        {"text": 3},
        {"ids": None},
        {"ids": ["a"]},
        {"tokens": [1]},
        {"words": [["a", [[0]]]]},
        {"words": {"a": 3}},
        {"roles": ["king"]},
        {"spans": [[1]]},
        {"parts": {"text_encoder": [1, 2, 0]}},
        {"ids": [float("inf")]},
    ],
    ids=str,
)
def test_anything_else_is_no_prompt(changed):
    with pytest.raises(ValueError, match="is no"):
        read_prompt({**WRITTEN, **changed})


@pytest.mark.parametrize("written", [None, [], "a red circle", {}, 3], ids=str)
def test_what_is_no_object_is_no_prompt(written):
    with pytest.raises(ValueError, match="is no prompt"):
        read_prompt(written)


def test_readings_in_readings_without_end():
    written = {**WRITTEN, "kind": "texts", "texts": {}, "readings": []}
    for _ in range(5000):
        written = {**WRITTEN, "kind": "texts", "texts": {}, "readings": [[0, written]]}
    with pytest.raises(ValueError, match="is no prompt"):
        read_prompt(written)
