"""Rows of cells as text in columns, or as HTML. The first row is the header."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from sdprobe.plot.printable import printable

Rows = Sequence[Sequence[str]]


def as_text(rows: Rows, align: Callable[[str, int], str] = str.ljust) -> list[str]:
    """Return the lines of a table; each column is as wide as its widest cell. Control characters are escaped.

    >>> as_text([("step", "sigma"), ("0", "14.6146")], align=str.rjust)
    ['step    sigma', '   0  14.6146']
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(align(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def as_html(rows: Rows, caption: str) -> str:
    """Return the table as HTML for a notebook; the content of its cells is escaped.

    >>> as_html([("word",), ("<b>",)], "a prompt")
    '<table><caption>a prompt</caption>...<tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head, *body = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
