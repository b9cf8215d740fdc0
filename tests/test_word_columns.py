"""`WordColumns`: the rows with the words are changed, and those alone; their output alone."""

from __future__ import annotations

import pytest

from sdprobe import Transform
from sdprobe.transform.attention_edits.word_columns import WordColumns, as_words
from tests.laws.strategies import run


class Doubled(Transform):
    """Twice the value, of the rows with a word."""

    kinds = ("cross",)

    def __init__(self, columns):
        self.columns = columns

    def start(self, run):
        self.columns.refuse_missing(run)
        self.given, self.same = [], []

    def attention(self, attn, site):
        def changed(some, columns, near):
            self.given.append(([row.image for row in some.rows], columns, [row.image for row in near.rows]))
            return some if site.place == "mid" else some.with_value(2 * some.value)

        new = self.columns.change(attn, site, changed)
        self.same.append(new is attn)
        if new is not attn:
            assert [bool((a == b).all()) for a, b in zip(new.output(), attn.output(), strict=True)] == [
                row.role != "cond" or "red" not in row.prompt.words for row in attn.rows
            ]
        return new


def test_rows_with_the_words_are_changed_alone(embedded):
    hook = Doubled(WordColumns.of(["red", "circle"], "cond"))
    found = run(embedded, hook, prompt=["a red circle", "a star", "a red ring and a red star"], steps=1)[hook]
    assert found.given[0] == ([0, 2], [{"red": [2], "circle": [3]}, {"red": [2, 6]}], [0, 2])
    assert any(found.same)  # where the callback gave back what it was given
    assert not all(found.same)


def test_words_a_user_gives():
    assert as_words("red") == ["red"]
    assert as_words(range(2)) == [0, 1]
    with pytest.raises(ValueError, match="there are no words"):
        as_words([])
    with pytest.raises(TypeError, match="a word is a text"):
        as_words([0.5])
    with pytest.raises(ValueError, match="no role"):
        WordColumns.of("red", "other")
