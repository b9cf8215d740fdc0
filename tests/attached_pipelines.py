"""The pipelines that can be attached to beside those that `load` takes, as a table of the docs.

``python -m tests.attached_pipelines`` writes it; a test sees that the page has it as it is.
"""

from __future__ import annotations

from pathlib import Path

from sdprobe.model.families.instruct_pix2pix import InstructPix2Pix, InstructPix2PixXL
from sdprobe.model.families.qwen_image_edit import QwenImageEdit
from sdprobe.model.loading import FAMILIES

PAGE = Path(__file__).parent.parent / "docs" / "concepts" / "families.md"
HEAD = ("| `load`, `sample` and `attach` | `attach` alone |", "|---|---|")


def table() -> str:
    """The table: a row for each family of the package that has further pipelines."""
    rows = [
        f"| {_named(family.pipelines)} | {_named(family.variants)} |"
        for family in FAMILIES
        if family.variants and family.__module__.startswith("sdprobe.")
    ]
    alone = [f"| | {_named(family.pipelines)} |" for family in (InstructPix2Pix, InstructPix2PixXL, QwenImageEdit)]
    return "\n".join([*HEAD, *rows, *alone])


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def with_table(page: str) -> str:
    """A page with the table in the place of the one that it has."""
    before, rest = page.split(HEAD[0], 1)
    return before + table() + "\n\n" + rest.split("\n\n", 1)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
