"""`Row`: what each row of the denoiser's batch is. Rows have labels; no code splits a batch in halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sdprobe.core.prompt import Prompt
from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_values import one_of

Role = Literal["cond", "uncond", "image", "perturbed", "unlabelled"]

UNLABELLED: Role = "unlabelled"
"""The role of a row of which nobody has said what it is: in a pipeline that no family knows."""


@dataclass(frozen=True)
class Row:
    """One row of the denoiser's batch: the number of its image, its prompt, and its role.

    ``role`` is ``"cond"``, ``"uncond"`` (the negative prompt, empty or not), ``"image"`` (three-way guidance) or
    ``"perturbed"`` (the prompt once more with perturbed attention, in a stock pipeline with perturbed-attention
    guidance). In an attached pipeline that no family knows it is ``"unlabelled"``, unless `sdprobe.attach` was told:
    then ``image`` is the number of the entry among those of its step, and of which image it is, is not known.
    """

    image: int
    prompt: Prompt
    role: Role


def side_of(role: Role) -> Role:
    """Return which prompts the rows of a role use.

    With three-way guidance, ``"image"`` rows use the negative ones; ``"perturbed"`` rows use those of ``"cond"``.
    """
    return {"image": "uncond", "perturbed": "cond"}.get(role, role)  # type: ignore[return-value]


def rows_of(rows: Sequence[Row], role: Role) -> slice | list[int]:
    """Return the positions of a role's rows in the batch; a slice if they are contiguous, so that indexing is a view.

    Raises ValueError for an unknown role.
    """
    if role not in get_args(Role):
        raise ValueError(f"{role!r} is no role of a row; the roles: {', '.join(get_args(Role))}")
    refuse_unlabelled(rows, role)
    return as_slice([i for i, row in enumerate(rows) if row.role == role])


def refuse_unlabelled(rows: Sequence[Row], asked: object) -> None:
    """Raise ValueError where rows are asked for by their role or image, and nobody has said what they are."""
    if asked != UNLABELLED and any(row.role == UNLABELLED for row in rows):
        raise ValueError(
            f"rows {asked!r} were asked for, and no family knows this pipeline, so which of its rows are which is not "
            f"known: say it by sdprobe.attach(pipe, hooks, rows=...), a function that returns (image, role) for each "
            f"entry of a batch, or ask for all rows, with rows=None"
        )


def as_slice(indices: Sequence[int]) -> slice | list[int]:
    """Return numbers as a slice if they are consecutive, so that indexing is a view; else as a list."""
    if indices and min(indices) >= 0 and list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return list(indices)


def read_role(written: Any) -> Role:
    """Return the role that a file names. Raises ValueError for anything else."""
    role: Role = one_of(written, get_args(Role), "role of a row")
    return role


def read_roles(written: Any) -> tuple[Role, ...]:
    """Return the roles that a file lists. Raises ValueError for anything else, and for none."""
    if not isinstance(written, (list, tuple)) or not written:
        raise ValueError(f"{short_repr(written)} where a list of roles is needed")
    return tuple(map(read_role, written))
