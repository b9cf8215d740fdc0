"""`record_of`, `records_of`: the record of activations that a run, a hook's copy or a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.run import Run

Source = ActivationRecord | Run | str | Path | Any


def records_of(sources: Source | Sequence[Source]) -> list[ActivationRecord]:
    """Return the records of one source, or of a list or tuple of several. Raises as `record_of`."""
    return [record_of(own) for own in (sources if isinstance(sources, (list, tuple)) else [sources])]


def record_of(source: Source) -> ActivationRecord:
    """Return the record that a source holds.

    Args:
        source: an `ActivationRecord`; the copy of an `Activations` of a run, ``run[activations]``; a `Run` with one
            such hook; or the folder of a record.

    Raises:
        ValueError: for a run with no `Activations`, or with several.
        TypeError: for anything else.
        FileNotFoundError: for a folder without a record.
    """
    if isinstance(source, ActivationRecord):
        return source
    if isinstance(source, (str, Path)):
        return ActivationRecord.open(source)
    if isinstance(source, Run):
        held = [own for _, own in source.records if isinstance(getattr(own, "record", None), ActivationRecord)]
        if len(held) != 1:
            raise ValueError(
                f"{source!r} has {len(held) or 'no'} records of activations: "
                + ("give one of them, run[activations]" if held else "make it with hooks=[Activations(modules)]")
            )
        source = held[0]
    record = getattr(source, "record", None)
    if not isinstance(record, ActivationRecord):
        raise TypeError(
            f"activations come from a Run with an Activations hook, from run[activations], from an ActivationRecord or "
            f"from its folder, not from {source!r}"
        )
    return record
