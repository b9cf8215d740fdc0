"""`LeftOutOfCall`: rows that hooks leave out of a pipeline's call of its denoiser, and what the pipeline is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdprobe.core.run import Row
from sdprobe.core.step import Step
from sdprobe.model.denoiser.left_out_rows import kept_rows
from sdprobe.stock_pipelines.repeat_denoiser_call import DenoiserCall


@dataclass(frozen=True)
class LeftOutOfCall:
    """The rows of a call that the denoiser is asked for, of those that the pipeline shows it.

    A pipeline splits the output into one part for each role. A row that was left out is given the output of the first
    kept row of its image, so that guidance between the two adds nothing, exactly.

    Args:
        every: the rows that the pipeline shows.
        kept: the positions of those that the denoiser is asked for.
    """

    every: tuple[Row, ...]
    kept: tuple[int, ...]

    @classmethod
    def asked(cls, step: Step, rows: tuple[Row, ...], has_caches: bool) -> LeftOutOfCall:
        """Return what hooks have asked for in a step. Raises ValueError where nothing would be left of the call."""
        return cls(rows, tuple(kept_rows(step, rows, has_caches)))

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that are kept."""
        return tuple(self.every[k] for k in self.kept)

    def narrowed(self, call: DenoiserCall) -> DenoiserCall:
        """Return a call with the kept rows only."""
        return call if len(self.kept) == len(self.every) else call.of(list(self.kept))

    def widened(self, output: Any) -> Any:
        """Return the output of the kept rows, a tensor or a list, as that of every row."""
        if len(self.kept) == len(self.every):
            return output
        first = {row.image: k for k, row in reversed(list(enumerate(self.rows)))}
        places = {number: k for k, number in enumerate(self.kept)}
        taken = [places.get(number, first[row.image]) for number, row in enumerate(self.every)]
        return [output[k] for k in taken] if isinstance(output, list) else output[taken]
