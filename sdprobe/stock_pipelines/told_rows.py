"""`ToldRows`: what the rows of a pipeline are that no family knows: what the user says, else nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

from sdprobe.core.prompt_of_embeddings import PromptNotRead
from sdprobe.core.rows import UNLABELLED, Role, Row
from sdprobe.core.run import Run

RowsOfBatch = Callable[..., Iterable[Any]]
"""Returns the rows of a batch: of its size, or of its size and the number of the call in the step."""

NOBODY = PromptNotRead.of_text("")


class ToldRows:
    """The rows of the calls of a pipeline's networks.

    Args:
        run: the run; its roles are set to those that are told.
        rows_of_batch: what the user says; None for nothing.
    """

    def __init__(self, run: Run, rows_of_batch: RowsOfBatch | None) -> None:
        self.run, self.rows_of_batch = run, rows_of_batch
        self.begin_step()
        if rows_of_batch is not None:  # any of them may come
            run.roles = ("cond", "uncond", "image")
            self._takes_call = _takes_two(rows_of_batch)
        self._found: dict[Role, None] = {}

    def begin_step(self) -> None:
        """Begin a step, of which no call has been made."""
        self.before: tuple[Row, ...] = ()
        self._calls = 0

    def of_call(self, count: int) -> tuple[Row, ...]:
        """Return the rows of the next call of a network in this step.

        Args:
            count: the size of its batch.

        Raises:
            ValueError: for rows that the user's function does not tell, or tells otherwise than in pairs.
        """
        if self.rows_of_batch is None:
            rows = self.unlabelled(count, len(self.before))
        else:
            given = (count, self._calls) if self._takes_call else (count,)
            rows = self._told(list(self.rows_of_batch(*given)), count)
            self._found |= dict.fromkeys(row.role for row in rows)
            self.run.roles = tuple(self._found)
        self._calls += 1
        self.before += rows
        return rows

    def of_tensor(self, rows: Sequence[Row], count: int) -> tuple[Row, ...]:
        """Return the rows of a tensor within a call: those of the call, or as many as it has, which nobody has told."""
        return rows if isinstance(rows, tuple) and len(rows) == count else self.unlabelled(count)

    @staticmethod
    def unlabelled(count: int, first: int = 0) -> tuple[Row, ...]:
        """Return so many rows of which nobody has said what they are."""
        return tuple(Row(number, NOBODY, UNLABELLED) for number in range(first, first + count))

    def _told(self, rows: Sequence[Any], count: int) -> tuple[Row, ...]:
        if len(rows) != count:
            raise ValueError(f"rows= returned {len(rows)} rows for a batch of {count}: it returns one for each entry")
        return tuple(map(self._row, rows))

    def _row(self, given: Any) -> Row:
        if isinstance(given, Row):
            return given
        pair = tuple(given) if isinstance(given, (tuple, list)) else ()
        if len(pair) != 2 or not isinstance(pair[0], int) or pair[1] not in get_args(Role):
            raise ValueError(
                f"rows= returned {given!r} for an entry of a batch: it returns pairs such as (0, 'cond'), the number "
                f"of the image and the role, one of {', '.join(get_args(Role))}; or sdprobe.Row"
            )
        image, role = pair
        return Row(image, self.run.prompt_of(image, role), role)


def _takes_two(function: RowsOfBatch) -> bool:
    """Whether a function takes the number of the call beside the size of the batch."""
    try:
        inspect.signature(function).bind(1, 0)
    except TypeError:
        return False
    return True
