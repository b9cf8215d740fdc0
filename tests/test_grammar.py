"""The heat maps of a run by the grammar of its prompt, with spaCy's words where it is installed."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps
from sdprobe.attributions import grammar
from sdprobe.attributions.grammar import Grammar, WordInGrammar
from tests.laws.strategies import run
from tests.planted import square
from tests.tiny import stable_diffusion

PROMPT = "a red circle and a checkered circle"
TAGS = ["DET", "ADJ", "NOUN", "CCONJ", "DET", "ADJ", "NOUN"]
HEADS, RELATIONS = [2, 2, 2, 2, 6, 6, 2], ["det", "amod", "ROOT", "cc", "det", "amod", "conj"]


def parser(words, tags, heads, relations):
    """A parser that gives these words of any text, one after the other, as spaCy does."""

    def parse(text):
        made, at = [], 0
        for word, tag, relation in zip(words, tags, relations, strict=True):
            at = text.index(word, at)
            made.append(SimpleNamespace(text=word, idx=at, pos_=tag, dep_=relation))
            at += len(word)
        for own, head in zip(made, heads, strict=True):
            own.head = made[head]
        return made

    return parse


def flat(*words):
    """A parser of words that all depend on the first."""
    return parser(words, ["NOUN"] * len(words), [0] * len(words), ["ROOT"] + ["dep"] * (len(words) - 1))


def by_spacy(text):
    tokens = pytest.importorskip("spacy.tokens")
    vocab = pytest.importorskip("spacy.vocab").Vocab()
    return tokens.Doc(vocab, words=text.split(), pos=TAGS, heads=HEADS, deps=RELATIONS)


@pytest.fixture(scope="module")
def made():
    return run(sdprobe.load(stable_diffusion()), AttentionMaps(), prompt=PROMPT)


def test_every_word_has_the_map_of_its_occurrence(made):
    found, maps = grammar(made, by_spacy), made[AttentionMaps]
    assert [word.text for word in found.words] == PROMPT.split()
    for word, occurrence in zip(found.words, [0, 0, 0, 0, 1, 0, 1], strict=True):
        assert torch.equal(word.heat_map.values, maps.heat_map(word.text, occurrence).values)
    assert found.words[5].positions == (6, 7)
    assert [(own.relation, own.dependent, own.head) for own in found.pairs()] == [
        ("det", "a", "circle"),
        ("amod", "red", "circle"),
        ("cc", "and", "circle"),
        ("det", "a", "circle"),
        ("amod", "checkered", "circle"),
        ("conj", "circle", "circle"),
    ]
    assert not found.left_out


def test_a_part_of_speech_has_the_mean_of_its_words_scaled_maps(made):
    found, maps = grammar(made, by_spacy).by_part_of_speech(), made[AttentionMaps]
    assert list(found) == ["DET", "ADJ", "NOUN", "CCONJ"]
    red, checkered = (maps.heat_map(word).normalized().values for word in ("red", "checkered"))
    assert torch.allclose(found["ADJ"].values, (red + checkered) / 2)


def test_overlaps_of_planted_masks():
    """|D| = 4, |H| = 8, |D∩H| = 2, |D∪H| = 10."""
    dependent, head = square((8, 8), 0, 0, 2), torch.zeros(8, 8)
    head[0, :8] = 1
    own = [
        WordInGrammar(text, "X", relation, first, 1, (first,), sdprobe.HeatMap(mask.float()))
        for first, (text, relation, mask) in enumerate([("red", "amod", dependent), ("circle", "ROOT", head)])
    ]
    (pair,) = Grammar(None, tuple(own), {}, size=(8, 8)).pairs()
    assert (pair.iod, pair.ioh, pair.iou) == (2 / 4, 2 / 8, 2 / 10)


def test_masks_are_of_the_size_of_the_picture(made):
    found = grammar(made, by_spacy, threshold=0.5)
    red = found.words[1]
    assert torch.equal(found.mask_of(red), red.heat_map.resize((16, 16)).mask(0.5))


def test_of_a_map_that_is_the_same_everywhere_there_is_no_share():
    own = [
        WordInGrammar(text, "X", relation, first, 1, (first,), sdprobe.HeatMap(torch.ones(2, 2)))
        for first, (text, relation) in enumerate([("red", "amod"), ("circle", "ROOT")])
    ]
    (pair,) = Grammar(None, tuple(own), {}, size=(2, 2)).pairs()
    assert all(map(math.isnan, (pair.iod, pair.ioh, pair.iou)))


def test_words_are_found_by_their_characters(tiny):
    prompt = "circle, a circle-red ring."
    result = run(tiny, maps := AttentionMaps(), prompt=prompt)
    found = grammar(result, flat("circle", ",", "a", "circle", "-", "red", "ring", "."))
    own = result.prompts[0]
    tokens = {position: own.tokens[position] for word in found.words for position in word.positions}
    assert sorted(tokens) == [position for position, role in enumerate(own.roles) if role == "word"]
    assert found.words[3].positions != found.words[0].positions  # within "circle-red" it is no word of its own
    expected = torch.stack([result[maps].heat_map(p).values for p in found.words[3].positions]).mean(0)
    assert torch.equal(found.words[3].heat_map.values, expected)


def test_what_has_no_tokens_is_left_out_and_said(tiny):
    prompt = "a checkered ring " + "a " * 30 + "star"
    result = run(tiny, AttentionMaps(), prompt=prompt)
    found = grammar(result, flat("chec", "kered", "ring", "star"))
    assert [word.text for word in found.words] == ["ring"]
    assert found.pairs() == []
    assert "no tokens of its own" in found.left_out["chec"]
    assert "no tokens of its own" in found.left_out["kered"]
    assert "past the 16 tokens" in found.left_out["star"]
    assert "left out: 'star'" in repr(found)


def test_other_methods_and_images(tiny):
    prompts = [PROMPT, "a star"]
    result = run(tiny, maps := AttentionMaps(keep=("layer", "head")), prompt=prompts)
    found = grammar(result, flat("a", "star"), image=1, method="daam")
    expected = result[maps].heat_map("star", image=1, method="daam").values
    assert torch.equal(found.words[1].heat_map.values, expected)


def test_a_saved_run_has_the_same_grammar(made, reopened):
    a, b = (grammar(own, by_spacy) for own in (made, reopened(made)))
    assert a.pairs() == b.pairs()


def test_pandas_and_text(made):
    found = grammar(made, by_spacy)
    frame = found.to_pandas()
    assert list(frame.columns) == ["relation", "head", "dependent", "iod", "ioh", "iou"]
    assert len(frame) == len(found.pairs()) == len(repr(found).splitlines()) - 1


def test_spacy_that_is_not_installed_is_said(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match=r"pip install 'sdprobe\[grammar\]'"):
        grammar(made)


def test_a_model_that_is_not_installed_is_not_downloaded(made):
    pytest.importorskip("spacy")
    with pytest.raises(ValueError, match="python -m spacy download xx_not_there"):
        grammar(made, "xx_not_there")


def test_a_blank_pipeline_has_no_grammar(made):
    spacy = pytest.importorskip("spacy")
    with pytest.raises(ValueError, match="with a tagger"):
        grammar(made, spacy.blank("en"))


@pytest.mark.parametrize(
    ("parse", "error", "said"),
    [
        (3, TypeError, "function of a text"),
        (lambda text: ["a"], TypeError, "no text, idx"),
        (lambda text: flat("star")("star"), ValueError, "'star' at character 0"),
        (parser(["a", "red"], ["DET", "ADJ"], [0, 0], ["", ""]), ValueError, "with a parser"),
    ],
    ids=["a number", "texts", "another text", "no dependencies"],
)
def test_what_is_no_parse_is_refused(made, parse, error, said):
    with pytest.raises(error, match=said):
        grammar(made, parse)
