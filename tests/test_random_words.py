"""`random_words`: other words of the prompt, of as many tokens where there are such."""

from __future__ import annotations

import pytest

from sdprobe.experiments.random_words import random_words


def test_they_are_other_words_and_come_from_the_seed(embedded):
    prompt = embedded.read("a red circle left of a checkered square")
    drawn = [random_words(prompt, prompt.positions("red circle"), [1, 1], [seed]) for seed in range(40)]
    assert {word for words in drawn for word in words} == {"left", "of", "square"}
    assert all(len(set(words)) == 2 for words in drawn)
    assert random_words(prompt, prompt.positions("red circle"), [1, 1], [3]) == drawn[3]


def test_as_many_tokens_where_there_are_such(embedded):
    prompt = embedded.read("a red circle left of a checkered square")
    assert len(prompt.positions("a")) == len(prompt.positions("checkered")) == 2
    assert {random_words(prompt, (), [2], [seed])[0] for seed in range(20)} == {"a", "checkered"}
    assert {random_words(prompt, (), [30], [seed])[0] for seed in range(20)} == {"a", "checkered"}


def test_too_few_words(embedded):
    with pytest.raises(ValueError, match="hides 3 other words of 'a red circle', and there are 2"):
        random_words(embedded.read("a red circle"), [2], [1, 1, 1], [0])
