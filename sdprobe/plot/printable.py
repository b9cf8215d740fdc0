"""`printable`: a text from a file, such that a terminal shows it and does not obey it."""

from __future__ import annotations


def printable(text: str, most: int = 10_000, lines: bool = False) -> str:
    """Return a text with its control characters escaped, and shortened.

    >>> print(printable("red\\x1b[31m and \\u202e"), printable("a" * 20, most=8), printable("a\\nb"))
    red\\x1b[31m and \\u202e aaaa ... a\\nb

    Args:
        text: any text.
        most: the longest that is returned, in characters.
        lines: keep the ends of lines.
    """
    short = text if len(text) <= most else f"{text[: most - 4]} ..."
    if short.isprintable():
        return short
    found = "".join(c if c.isprintable() or (lines and c == "\n") else repr(c)[1:-1] for c in short)
    return found if len(found) <= most else f"{found[: most - 4]} ..."
