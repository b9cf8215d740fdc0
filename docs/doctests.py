"""An extension of griffe: the doctests of a docstring become code blocks, so that they are not read as Markdown."""

from typing import Any

import griffe


def fenced(text: str) -> str:
    """The text with every paragraph that begins with ``>>>`` fenced.

    >>> fenced("One.\\n\\n>>> 1 + 1\\n2\\n\\nTwo.").splitlines()
    ['One.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'Two.']
    >>> fenced("Example:\\n    >>> 1 + 1\\n    2").splitlines()
    ['Example:', '    ```pycon', '    >>> 1 + 1', '    2', '    ```']
    """
    lines: list[str] = []
    inside: str | None = None  # the indent of the paragraph, within one
    for line in [*text.split("\n"), ""]:
        if inside is None and line.lstrip().startswith(">>>"):
            inside = line[: len(line) - len(line.lstrip())]
            lines.append(f"{inside}```pycon")
        elif inside is not None and not line.strip():
            lines.append(f"{inside}```")
            inside = None
        lines.append(line)
    return "\n".join(lines[:-1])


class Doctests(griffe.Extension):
    """Fence the doctests of every object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
