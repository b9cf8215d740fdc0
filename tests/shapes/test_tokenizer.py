"""The tokenizer: CLIP's format, the project's words."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from sdprobe.shapes import WEIGHTS, scene
from sdprobe.shapes.tokenizer import build


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return build(tmp_path_factory.mktemp("tokenizer"))


def test_size_and_special_tokens(built: CLIPTokenizer) -> None:
    assert len(built) == 663
    assert built.model_max_length == 32
    assert built("").input_ids == [661, 662]
    assert (built.bos_token_id, built.eos_token_id, built.pad_token_id) == (661, 662, 662)


def test_every_word_of_captions_is_one_token(built: CLIPTokenizer) -> None:
    words = {word for k in range(300) for word in scene(k).statement.words} - {"drawing"}
    assert all(len(built.tokenize(word)) == 1 for word in words)


@pytest.mark.parametrize(("word", "pieces"), [("checkered", ["check", "ered</w>"]), ("drawing", ["draw", "ing</w>"])])
def test_words_of_two_tokens(built: CLIPTokenizer, word: str, pieces: list[str]) -> None:
    assert built.tokenize(word) == pieces


@pytest.mark.parametrize("text", ["a small red circle, above a checkered star", "a drawing of naïve ünïcode 漢字 !?"])
def test_nothing_is_lost(built: CLIPTokenizer, text: str) -> None:
    back = built.decode(built(text).input_ids, skip_special_tokens=True)
    assert back.replace(" ", "") == text.replace(" ", "")


def test_captions_fit(built: CLIPTokenizer) -> None:
    assert max(len(built(scene(k).caption).input_ids) for k in range(500)) <= 32


def test_the_shipped_one_is_the_built_one(built: CLIPTokenizer, tmp_path: Path) -> None:
    for folder in (WEIGHTS / "tokenizer", WEIGHTS / "clip"):
        assert CLIPTokenizer.from_pretrained(folder).get_vocab() == built.get_vocab()
