"""From letters to tokens, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from tests import clip_vocabulary, tiny
from tests.families import FAMILIES

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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_spells_what_it_has_read(family):
    model = sdprobe.load(FAMILIES[family]())
    texts = ["a red circle", "a star of blue"]
    table = sdprobe.tokens(model, texts)
    assert sdprobe.detokenize(model, [prompt.ids for prompt in table.prompts]) == texts
