"""Texts with weights of words: what is read, and what is refused with its position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import read_weights

A, B = 1.1, 0.9


@pytest.mark.parametrize(
    ("written", "pieces"),
    [
        ("a red circle", [("a red circle", 1)]),
        ("", []),
        ("a (red:1.3) circle", [("a ", 1), ("red ", 1.3), ("circle", 1)]),
        ("a (red)1.3 circle", [("a ", 1), ("red ", 1.3), ("circle", 1)]),
        ("(red) circle", [("red ", A), ("circle", 1)]),
        ("red++ circle- (a star)--", [("red ", A**2), ("circle ", B), ("a star", B**2)]),
        ("(red:.5) (circle:0.5)", [("red circle", 0.5)]),
        ("((red:1.2) circle)0.5", [("red ", 0.6), ("circle", 0.5)]),
        ("(red:0)1", None),
        (r"a \(red\) C\+\+", [("a (red) C++", 1)]),
        ("black-and-white - or + not", [("black-and-white - or + not", 1)]),
        ("a ratio: (a 2:1 ratio:1.5)", [("a ratio: ", 1), ("a 2:1 ratio", 1.5)]),
        ("<my-cat>+, red", [("<my-cat>", A), (", red", 1)]),
        ("[red] {circle} a_b.swap", [("[red] {circle} a_b.swap", 1)]),
        ("well--known star, c++11, red+-blue", [("well--known star, c++11, red+-blue", 1)]),
        ("(red)--blue", [("red", A), ("--blue", 1)]),
        ("(red circle)2. then", [("red circle", 2), (". then", 1)]),
        ("(red)1.", [("red.", 1)]),
        ("(red)3d star", [("red", A), ("3d star", 1)]),
        ("(red)1.5-fold", [("red", A), ("1.5-fold", 1)]),
        ("(at 3\\:00)1.3 (a mp3 : 1.3)", [("at 3:00 a mp3 ", 1.3)]),
    ],
)
def test_a_text_is_read_in_pieces(written, pieces):
    if pieces is None:
        with pytest.raises(ValueError, match="second weight"):
            read_weights(written)
        return
    read = read_weights(written)
    assert [tuple(piece) for piece in read.pieces] == pieces
    assert [read.text[slice(*span)] for span in read.spans] == [text for text, _ in pieces]
    assert read.is_plain == all(weight == 1 for _, weight in pieces)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a (red circle", "at character 2 .* never closed"),
        ("a red) circle", "at character 5 .* never opened"),
        ("a () circle", "at character 2 .* nothing in them"),
        ("a (red: high) circle", "at character 7 .* 'high', which is no weight"),
        ("a (red:-1) circle", "'-1', which is no weight"),
        ("a (red:1,3) circle", "'1,3', which is no weight"),
        ("((red)", "at character 0"),
        ("(it's 3:00)", "at character 7 .* colon between two numbers"),
        ("(at 12:30)", "at character 6 .* colon between two numbers"),
        ("(star:30)", "'30', a weight above 10"),
        ("(star)11", "at character 6 .* a weight above 10"),
        ("a" + "+" * 8000, "at character 1 .* a weight above 10"),
        ('("a circle", "a star").blend(1, 1)', r"at character 22 .* '.blend\(', which compel reads as a command"),
        ("a circle.swap(star)", "at character 8 .* compel"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(written, said):
    with pytest.raises(ValueError, match=said):
        read_weights(written)


@given(st.text("ab ()\\:+-.1", max_size=30))
def test_a_text_whose_signs_are_escaped_is_itself(text):
    escaped = "".join(f"\\{sign}" if sign in "()\\:+-" else sign for sign in text)
    read = read_weights(escaped)
    assert read.text == text
    assert read.is_plain
