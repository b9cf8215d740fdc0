"""From letters to tokens, as a table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.core.prompt import Prompt
from tests import clip_vocabulary, tiny
from tests.families import ALL, FAMILIES
from tests.laws.strategies import run

WORDS = st.sampled_from(["a", "red", "circle", "checkered", "drawing", "corgi", "t-shirt"])


@given(words=st.lists(WORDS, min_size=1, max_size=5))
def test_the_rows_say_what_the_prompt_says(embedded, words):
    text = " ".join(words)
    table = sdprobe.tokens(embedded, text)
    prompt, rows = table.prompts[0], table.rows()
    assert [row.position for row in rows] == list(range(32))
    assert tuple(row.id for row in rows) == prompt.ids
    assert tuple(row.role for row in rows) == prompt.roles
    for word, found in prompt.words.items():
        for position in (p for positions in found for p in positions):
            assert rows[position].word == word
    assert all(not row.word for row in rows if row.role != "word")


@given(words=st.lists(WORDS.filter(lambda w: "-" not in w), min_size=1, max_size=5))
def test_detokenizing_gives_the_text_back(embedded, words):
    texts = [" ".join(words), " ".join(reversed(words))]
    table = sdprobe.tokens(embedded, texts)
    assert sdprobe.detokenize(embedded, [prompt.ids for prompt in table.prompts]) == texts


def test_a_prompt_longer_than_the_context_says_what_was_cut(embedded):
    table = sdprobe.tokens(embedded, "red " * 30 + "checkered circle, star")
    assert table.prompts[0].cut == ("checkered", "circle", "star")
    assert "longer than the context of 32 tokens; cut off: checkered circle star" in str(table)
    assert sdprobe.tokens(embedded, "red " * 30).prompts[0].cut == ()


def test_it_prints_only_what_was_written(embedded):
    lines = str(sdprobe.tokens(embedded, ["a red ring", "a star"])).splitlines()
    assert lines[0].split() == ["position", "id", "token", "word", "role"]
    assert [line.split()[-1] for line in lines[1:6]] == ["start", "word", "word", "word", "end"]
    assert lines[6] == "and 27 padding tokens"


def test_in_a_notebook_it_is_a_table_and_nothing_else(embedded):
    html = sdprobe.tokens(embedded, "a <script>alert(1)</script> ring")._repr_html_()
    assert "<script>" not in html
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 1 + sum(
        row.role != "pad" for row in sdprobe.tokens(embedded, "a <script>alert(1)</script> ring")
    )


@pytest.fixture(scope="session")
def clip_reader(pytestconfig, tmp_path_factory) -> sdprobe.Model:
    """A tiny model that reads as Stable Diffusion 1.x does."""
    words = clip_vocabulary.tokenizer(pytestconfig.cache.mkdir("clip-vocabulary"), tmp_path_factory.mktemp("clip"))
    return sdprobe.load(tiny.stable_diffusion(words=words))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("A picture of a puppy", (49406, 320, 1674, 539, 320, 6829, 49407)),
        ("a dog wearing hat", (49406, 320, 1929, 3309, 3801, 49407)),
        ("skunk", (49406, 42194, 49407)),
    ],
)
def test_the_clip_vocabulary_gives_the_numbers_of_the_literature(clip_reader, text, ids):
    table = sdprobe.tokens(clip_reader, text)
    assert tuple(row.id for row in table)[: len(ids)] == ids
    assert len(table.rows()) == 77
    assert sdprobe.detokenize(clip_reader, [table.prompts[0].ids]) == [text.lower()]
    assert sdprobe.embed(clip_reader, text).token.shape[:2] == (1, 77)


@pytest.mark.parametrize("family", ALL)
def test_every_family_spells_what_it_has_read(family):
    model = sdprobe.load(FAMILIES[family]())
    texts = ["a red circle", "a star of blue"]
    table = sdprobe.tokens(model, texts)
    assert sdprobe.detokenize(model, [prompt.ids for prompt in table.prompts]) == texts


def reads(text, *pieces):
    """A prompt that a tokenizer reads in these pieces, one after the other in the text."""
    spans, at = [], 0
    for piece in pieces:
        at = text.index(piece, at)
        spans.append((at, at + len(piece)))
        at += len(piece)
    return Prompt.from_spans(text, range(len(pieces)), pieces, ["word"] * len(pieces), spans)


@pytest.mark.parametrize(
    ("text", "pieces", "word", "positions"),
    [
        ("紅色的圓形", ["紅色", "的", "圓形"], "圓形", (2,)),
        ("紅色的圓形", ["紅色", "的", "圓形"], "紅色的", (0, 1)),
        ("紅色的圓形和circles", ["紅色", "的", "圓", "形", "和", "circles"], "圓形", (2, 3)),
        ("紅色的圓形和circles", ["紅色", "的", "圓", "形", "和", "circles"], "Circles", (5,)),
        ("赤い丸と青い丸", ["赤い", "丸", "と", "青い", "丸"], "丸", (1, 4)),
        ("วงกลมสีแดง", ["วงกลม", "สี", "แดง"], "สีแดง", (1, 2)),
        ("紅色 圓形", ["紅色", "圓形"], "紅色 圓形", (0, 1)),
    ],
)
def test_a_part_of_a_text_without_spaces(text, pieces, word, positions):
    assert reads(text, *pieces).positions(word) == positions


@pytest.mark.parametrize("word", ["circle", "ircle", "circl", "red", "é"])
def test_a_part_of_a_word_with_spaces_around_is_none(word):
    prompt = reads(
        "a reddish circles café, 和circles", "a", "red", "dish", "circle", "s", "caf", "é", "和", "circle", "s"
    )
    assert prompt.occurrences(word) == ()
    with pytest.raises(sdprobe.WordNotInPrompt, match="is not in the prompt"):
        prompt.positions(word)


def test_a_part_that_begins_or_ends_within_a_token():
    prompt = reads("紅色的圓形", "紅色", "的圓", "形")
    for word in ("圓形", "色的圓", "的"):
        assert prompt.occurrences(word) == ()
        with pytest.raises(
            sdprobe.WordNotInPrompt, match=r"'.*' stands in '紅色的圓形', but does not begin and end with"
        ):
            prompt.positions(word)
    with pytest.raises(sdprobe.WordNotInPrompt, match=r"which there are '的圓\|形': ask for whole ones"):
        prompt.positions("圓形")


def test_a_part_of_a_text_without_spaces_past_the_context(embedded):
    prompt = embedded.read("紅" * 40 + "圓形")
    with pytest.raises(sdprobe.WordNotInPrompt, match="'圓形' lies past the 32 tokens that are read"):
        prompt.positions("圓形")


def test_a_part_of_a_text_is_read_by_a_real_tokenizer(embedded):
    prompt = embedded.read("紅色圓形")
    positions = prompt.positions("圓形")
    assert positions
    assert {prompt.spans[i] for i in positions} == {(2, 3), (3, 4)}
    assert prompt.positions("紅色圓形") == tuple(range(1, positions[-1] + 1))


@pytest.mark.parametrize("word", [["circle"], None, 2.0, ("a", "circle")])
def test_one_word_is_asked_for(tiny, word):
    maps = sdprobe.AttentionMaps()
    result = run(tiny, maps, prompt="a circle")
    with pytest.raises(
        TypeError, match="a word is a text, such as 'circle', or a token position; ask for one, not for"
    ):
        result[maps].heat_map(word)
    assert result.prompts[0].positions(np.int64(2)) == (2,)
