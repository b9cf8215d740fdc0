"""The law of saved runs: what a hook recorded can be saved with its run, and the hook read back answers the same."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from sdprobe.core.hook_records import HookRecords
from sdprobe.core.run import Run
from sdprobe.runs.saved.open_run import open_run
from sdprobe.testing.flat_records import answers_of, asked_for, difference, records_of
from sdprobe.testing.law import Broken, law
from sdprobe.testing.trial import Trial


@law()
def can_be_saved(trial: Trial) -> None:
    """All that a hook recorded can be saved with its run, and read back without the model it answers the same."""
    run = trial.alone.run
    refuse_unequal(run, run.records[0][0])


def refuse_unequal(run: Run, hook: object) -> None:
    """Save a run, open it, and raise `Broken` if a hook of it answers otherwise, or could not be saved completely."""
    live = run[hook]
    number = next(i for i, (_, own) in enumerate(run.records) if own is live)
    given: Any = run.records[number][0]
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run.save(Path(folder) / "run")
        if left := [own for own in map(_text, said) if own.startswith(f"the records of {given!r} were not all saved")]:
            raise Broken(f"{left[0]}. What is no record has a name that begins with an underscore")
        again = open_run(Path(folder) / "run")
        back = again.record_of(again.hooks[number], type(given))
        names = asked_for(live, given)
        if at := difference(answers_of(live, names), answers_of(back, names)):
            raise Broken(f"read back from a saved run, {at}: say how by the methods records and restore")
        if at := difference(_written(live), _written(back)):
            raise Broken(f"read back from a saved run and saved again, {at}: restore must take all that records gave")


def _text(own: warnings.WarningMessage) -> str:
    return str(own.message)


def _written(copied: Any) -> dict[str, Any]:
    records: HookRecords = type(copied).records(copied)
    return records_of(_Written(records))


class _Written:
    def __init__(self, records: HookRecords) -> None:
        self.values, self.tensors = dict(records.values), dict(records.tensors)


LAWS = (can_be_saved,)
