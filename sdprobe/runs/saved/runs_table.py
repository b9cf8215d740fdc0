"""`RunsTable`: a table of saved runs: the settings in which they differ, and what is computed of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from sdprobe.core.data_frame import data_frame
from sdprobe.core.run import Run, Settings
from sdprobe.core.short_repr import short_repr
from sdprobe.plot.printable import printable
from sdprobe.plot.table import as_html, as_text
from sdprobe.runs.saved.open_run import SavedRun

Metrics = Mapping[str, Callable[[Run], Any]]
OWN = ("folder", "saved", "model")


class RunsTable:
    """A table of saved runs: folder, time, model, the settings in which they differ, and metrics. See `Runs.table`.

    Args:
        runs: each run with its name. They are gone through once, and not kept.
        metrics: functions of a run, by the name of their column.

    Attributes:
        columns: the values of each column, by its name. A metric that raised an error has None.
        same: the settings that all runs have in common.
        errors: for each metric, the errors that it raised, by the name of the run.

    Raises ValueError for a metric that is called as a column is already.
    """

    def __init__(self, runs: Iterable[tuple[str, SavedRun]], metrics: Metrics) -> None:
        names = [own.name for own in fields(Settings)]
        if taken := [name for name in metrics if name in (*OWN, *names)]:
            raise ValueError(f"a metric cannot be called {taken[0]!r}: runs have that already")
        every: dict[str, list[Any]] = {name: [] for name in (*OWN, *names, *metrics)}
        self.errors: dict[str, dict[str, str]] = {name: {} for name in metrics}
        for name, run in runs:
            row = {"folder": name, "saved": run.saved, "model": run.model_name}
            row |= {setting: _one(getattr(run.settings, setting)) for setting in names}
            for own, values in every.items():
                values.append(self._measured(name, run, own, metrics[own]) if own in metrics else row[own])
        self._count = len(every["folder"])
        same = [name for name in names if all(value == every[name][0] for value in every[name])]
        self.same = {name: every[name][0] for name in same if self._count}
        self.columns = {name: values for name, values in every.items() if name not in same}

    def _measured(self, name: str, run: SavedRun, own: str, metric: Callable[[Run], Any]) -> Any:
        try:
            found = metric(run)
            return found.item() if hasattr(found, "item") else found
        except Exception as error:  # a metric may ask what one of thousands of runs does not have
            self.errors[own][name] = f"{type(error).__name__}: {error}"
            return None

    def to_pandas(self) -> Any:
        """Return the table as a data frame of pandas, and the settings that are the same in all runs as its ``attrs``.

        Where a metric raised an error, its value is missing, and a further column ``"... error"`` has the error.

        Raises ImportError if pandas is not installed.
        """
        failed = {
            f"{metric} error": [errors.get(name, "") for name in self.columns["folder"]]
            for metric, errors in self.errors.items()
            if errors
        }
        frame = data_frame({**self.columns, **failed})
        frame.attrs.update(self.same)
        return frame

    def _rows(self) -> list[tuple[str, ...]]:
        cells = {name: [_said(value) for value in values] for name, values in self.columns.items()}
        for metric, errors in self.errors.items():
            of = zip(self.columns["folder"], cells[metric], strict=True)
            cells[metric] = [printable(errors[name], 60) if name in errors else cell for name, cell in of]
        return [tuple(name.replace("_", " ") for name in cells), *zip(*cells.values(), strict=True)]

    def _rest(self) -> str:
        said = ", ".join(f"{name.replace('_', ' ')} {short_repr(value)}" for name, value in self.same.items())
        return f"the same in all {self._count} runs: {said}" if said else f"{self._count} runs"

    def __str__(self) -> str:
        return "\n".join([*as_text(self._rows()), self._rest()])

    def __repr__(self) -> str:
        return f"RunsTable({self._count} runs, {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        return as_html(self._rows(), self._rest())


def _one(value: Any) -> Any:
    """Return the only one of a setting of which there may be several."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(value, 80) if isinstance(value, str) else short_repr(value)
