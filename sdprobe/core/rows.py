"""What each row of the denoiser's batch is: rows carry labels, and nobody counts halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sdprobe.core.prompt import Prompt

Role = Literal["cond", "uncond", "image"]


@dataclass(frozen=True)
class Row:
    """What one row of the denoiser's batch is: a picture's number, the prompt it is shown, and why.

    ``role`` is ``"cond"``, ``"uncond"`` (the negative prompt, empty or not) or ``"image"`` (three-way guidance).
    """

    image: int
    prompt: Prompt
    role: Role


def side_of(role: Role) -> Role:
    """Which prompts the rows of a role are shown: with three-way guidance, those of the picture alone the negative."""
    return "uncond" if role == "image" else role


def rows_of(rows: Sequence[Row], role: Role) -> slice | list[int]:
    """Where in the batch the rows of a role stand: a slice where they stand together, so that indexing is a view.

    Raises ValueError for what is no role.
    """
    if role not in get_args(Role):
        raise ValueError(f"{role!r} is no role of a row; the roles: {', '.join(get_args(Role))}")
    return as_slice([i for i, row in enumerate(rows) if row.role == role])


def as_slice(indices: Sequence[int]) -> slice | list[int]:
    """Numbers as a slice where each is one more than the last, so that indexing is a view; else as they are."""
    if indices and min(indices) >= 0 and list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return list(indices)
