"""`RecordOfSteps`: base of the observers that keep tensors of each step, in memory or in a folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.flat import FlatActivations
from sdprobe.core.activations.folder import ActivationFolder
from sdprobe.core.activations.form import ActivationForm, read_name, written_name
from sdprobe.core.activations.record import ActivationKey, ActivationRecord, HeldActivations, Kept, said_of
from sdprobe.core.activations.restored import RestoredActivations, records_of_activations
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.function_hooks import name_of
from sdprobe.core.hook import Observer
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.limits.limited_hook import Limit, LimitedHook, NamedLimit
from sdprobe.core.limits.row_subset import number_in_whole, rows_of_run
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.torch_names import name_of as dtype_name
from sdprobe.core.written_values import MOST_ENTRIES, count, listed


class RecordOfSteps(Observer):
    """Base of the observers that keep tensors of chosen steps and rows.

    A hook keeps a tensor with ``_keep``; the tensors of a step are written when it is complete. It has the attributes
    ``steps``, ``rows``, ``dtype`` and ``to`` of `Activations`, and ``_limit``, the limit on steps and rows.

    Attributes:
        described: the arguments that say what is kept, which a folder is compared by.
        record: (in a run) the `ActivationRecord`.
    """

    described: tuple[str, ...] = ()
    dtype: torch.dtype | None
    to: str | Path | None
    _limit: Limit

    def start(self, run: Run) -> None:
        self.run = run
        every = rows_of_run(run)
        if not any(map(self._limit.includes_row, every)):
            raise ValueError(
                f"{self!r} would keep nothing: its rows are none of this run's {run.settings.images} images, counted "
                f"from 0, with the roles {', '.join(dict.fromkeys(row.role for row in every))}"
            )
        described = self._description(run)
        if self.to is not None and any(_folder(own) == _folder(self) for _, own in run.records if own is not self):
            raise ValueError(f"two hooks of this run write to {str(self.to)!r}: give each a folder of its own")
        if self.to is not None and run.settings.seed is None and (Path(self.to) / "record.json").exists():
            raise ValueError(
                f"{str(self.to)!r} holds a record, and whether this run is the same cannot be told, since its noise "
                f"came from no seed that is known: give it a folder of its own, or the pipeline a new generator"
            )
        self.record: ActivationRecord = (
            HeldActivations(described) if self.to is None else ActivationFolder.begun(self.to, described)
        )
        self._of_step: dict[ActivationKey, list[Kept]] = {}
        self._outside: dict[ActivationKey, list[Kept]] = {}
        self._outside_written = 0
        self._ended: list[int] = []
        self._passed: dict[ActivationKey, None] = {}

    def _keep(self, key: ActivationKey, x: Shaped[Tensor, "rows ..."], form: ActivationForm, site: Site) -> None:
        """Keep a tensor of a site until the end of its step.

        Raises ValueError if one was kept of the same rows in this step.
        """
        form.check(tuple(x.shape))
        before = (self._outside if site.index is None else self._of_step).setdefault(key, [])
        if any(set(own.form.rows) & set(form.rows) for own in before):
            raise ValueError(
                f"{site.name} runs several times in {said_of(site.index)} for the same rows, and one tensor of each is "
                f"kept: choose modules without it, such as the one that it is a part of"
            )
        before.append(Kept(CpuCopy(x, self.dtype), form))

    def noise_pred(self, x: Tensor, step: Step) -> None:
        # The end of a step: where a pipeline calls its denoiser twice, model_output passes twice.
        self._write_outside()
        if self._of_step:
            self.record.write(step.index, {key: _joined(key, parts) for key, parts in self._of_step.items()})
            self._of_step = {}
        self._ended.append(step.index)

    def finish(self, run: Run) -> None:
        self._write_outside()
        self._of_step, self._outside = {}, {}  # a step that did not come to its end is not kept
        self.record.finish()
        if self._ended and not self.record.indices:
            warnings.warn(self._nothing(), stacklevel=2)

    def records(self) -> HookRecords:
        own = records_of_activations(self.record)
        passed = [*map(written_name, self._passed)]
        return replace(own, values={**own.values, "steps_ended": self._ended, "passed": passed})

    def restore(self, records: HookRecords, run: Run) -> None:
        self.run, self.record = run, RestoredActivations(records)
        self._ended = [*map(count, listed(records.values["steps_ended"]))]
        self._passed = dict.fromkeys(map(read_name, listed(records.values["passed"], MOST_ENTRIES)))

    @property
    def indices(self) -> list[int | None]:
        """The numbers of the steps kept; last, None, if something outside of the steps was kept."""
        return self.record.indices

    def at(self, index: int | None, name: str | ActivationKey) -> Shaped[Tensor, "rows ..."]:
        """Return one tensor of one step. Raises KeyError if it was not kept."""
        self._refuse_nothing()
        return self.record.at(index, name)

    def axes(self, name: str | ActivationKey) -> tuple[str, ...]:
        """Return the names of the axes of ``run[activations][name]``. Raises KeyError if it was not kept."""
        self._refuse_nothing()
        return self.record.axes_of(name)

    def flat(
        self, name: str | ActivationKey, *, stream: str | None = None, side: str | None = None, call: int | None = None
    ) -> FlatActivations:
        """Return all vectors of a module, with a table of the picture, row, step and place of each (`FlatActivations`).

        Raises KeyError, with the choices, if none fits or several do.
        """
        self._refuse_nothing()
        return self.record.flat(name, stream=stream, side=side, call=call)

    def __getitem__(self, name: str | ActivationKey) -> Shaped[Tensor, "steps rows ..."]:
        self._refuse_nothing()
        return self.record[name]

    def _write_outside(self) -> None:
        count = sum(map(len, self._outside.values()))
        if count > self._outside_written:  # after the text encoders, and again after the autoencoder
            self._outside_written = count  # first, so that after an error `finish` does not raise it again
            self.record.write(None, {key: _joined(key, parts) for key, parts in self._outside.items()})

    def _refuse_nothing(self) -> None:
        if not self.record.indices:
            raise KeyError(self._nothing())

    def _nothing(self) -> str:
        """Say that nothing was kept, and what would have been there."""
        passed = ", ".join(map(str, list(self._passed)[:6])) or "nothing that its modules, streams and sides fit"
        steps = f"steps {self._ended[0]} to {self._ended[-1]}" if self._ended else "no whole step"
        return f"{self!r} kept nothing: the run had {steps}, and passed {passed}"

    def _description(self, run: Run) -> Mapping[str, Any]:
        own: dict[str, Any] = {name: _plain(getattr(self, name)) for name in self.described} | self._limits(run)
        return own | {"model": run.model_name} | {name: _plain(value) for name, value in asdict(run.settings).items()}

    def _limits(self, run: Run) -> dict[str, Any]:
        """Return what `only` leaves of a run: the rows chosen of the whole run, and limits of the steps and sites."""
        around = [own for _, own in run.records if isinstance(own, LimitedHook) and own.inner is self]
        chosen = [
            (number, row.role)
            for row in rows_of_run(run)
            for number in [number_in_whole(run, row.image)]
            if self._limit.includes_row(row) and all(own.includes_row(replace(row, image=number)) for own in around)
        ]
        others = [(limit.steps, limit.sites) for own in around for limit in own.limits]
        return {"chosen": _plain(chosen), "only": _plain([own for own in others if own != (None, None)])}


def _folder(hook: object) -> Path | None:
    """Return the folder that a hook writes its record to."""
    return Path(hook.to).resolve() if isinstance(hook, RecordOfSteps) and hook.to is not None else None


UNLABELLED = "; what its rows are can be said by attach(pipe, hooks, rows=...)"


def _joined(key: ActivationKey, parts: list[Kept]) -> Kept:
    """Return the rows of several calls together: prompts and negative prompts are encoded one after the other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0].form
    if len({part.copy.value.shape[1:] for part in parts}) > 1:
        sizes = ", ".join(f"{list(part.copy.value.shape)} of {part.form.rows[0].prompt!r}" for part in parts)
        raise ValueError(
            f"{key} has not the same shape in all rows ({', '.join(first.axes)}: {sizes}): choose rows=, or positions "
            f"instead of words as tokens={UNLABELLED * any(row.role == 'unlabelled' for row in first.rows)}"
        )
    positions = None if first.positions is None else tuple(own for part in parts for own in part.form.positions or ())
    rows = tuple(row for part in parts for row in part.form.rows)
    form = ActivationForm(first.axes, rows, first.grid, first.image, first.text, positions)
    return Kept(CpuCopy(torch.cat([part.copy.value for part in parts])), form)


def _plain(value: object) -> Any:
    """Return a setting as JSON holds it; a function by its name."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if callable(value) and not isinstance(value, NamedLimit):  # which says its numbers and functions in its repr
        return name_of(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value))
    if isinstance(value, (list, tuple, range)):
        return list(map(_plain, value))
    return repr(value)
