"""`record_of`, `records_of`: the record of activations that a run, a hook's copy or a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.run import Run

Source = ActivationRecord | Run | str | Path | Any
Held = Literal["activations", "attention"]
MADE_BY = {"activations": "Activations(modules)", "attention": "AttentionRecorder()"}


def held_by(record: ActivationRecord) -> Held:
    """Return what a record holds: activations, or probabilities of attention."""
    return "attention" if record.description.get("holds") == "attention" else "activations"


def records_of(sources: Source | Sequence[Source]) -> list[ActivationRecord]:
    """Return the records of one source, or of a list or tuple of several. Raises as `record_of`."""
    return [record_of(own) for own in (sources if isinstance(sources, (list, tuple)) else [sources])]


def record_of(source: Source, what: Held = "activations") -> ActivationRecord:
    """Return the record that a source holds.

    Args:
        source: an `ActivationRecord`; the copy of an `Activations` of a run, ``run[activations]``; a `Run` with one
            such hook; or the folder of a record.
        what: ``"activations"``, or ``"attention"`` for the record of an `AttentionRecorder`.

    Raises:
        ValueError: for a run with no such hook, or with several, and for a record of the other kind.
        TypeError: for anything else.
        FileNotFoundError: for a folder without a record.
    """
    record = _given(source, what)
    if (held := held_by(record)) != what:
        raise ValueError(
            f"{record!r} is a record of {held}, and one of {what} is needed: record it with {MADE_BY[what]}"
        )
    return record


def _given(source: Source, what: Held) -> ActivationRecord:
    if isinstance(source, ActivationRecord):
        return source
    if isinstance(source, (str, Path)):
        return ActivationRecord.open(source)
    if isinstance(source, Run):
        records = (getattr(own, "record", None) for _, own in source.records)
        held = [own for own in records if isinstance(own, ActivationRecord) and held_by(own) == what]
        if len(held) != 1:
            raise ValueError(
                f"{source!r} has {len(held) or 'no'} records of {what}: "
                + (f"give one of them, run[{what}]" if held else f"make it with hooks=[{MADE_BY[what]}]")
            )
        return held[0]
    record = getattr(source, "record", None)
    if not isinstance(record, ActivationRecord):
        hook = MADE_BY[what].split("(")[0]
        raise TypeError(
            f"{what} come{'s' * (what == 'attention')} from a Run with an {hook} hook, from run[{what}], from an "
            f"ActivationRecord or from its folder, not from {source!r}"
        )
    return record
