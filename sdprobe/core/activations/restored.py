"""`RestoredActivations`: the record of activations of a saved run, of which a tensor is read when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sdprobe.core.activations.form import ActivationForm, ActivationKey, read_name, written_name
from sdprobe.core.activations.record import ActivationRecord, Kept
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.written_values import MOST_ENTRIES, count, listed, mapping, text

MOST_NUMBERS = 2**40
Place = tuple[int | None, ActivationKey]


def records_of_activations(record: ActivationRecord) -> HookRecords:
    """Return a record as files hold it: each tensor, which is read when it is written, and what its axes mean.

    >>> import torch
    >>> from sdprobe.core.activations.record import HeldActivations, RowLabel
    >>> from sdprobe.core.cpu_copy import CpuCopy
    >>> record, form = HeldActivations(), ActivationForm(("rows", "width"), (RowLabel(0, "cond", "a red circle"),))
    >>> record.write(7, {ActivationKey("mid_block"): Kept(CpuCopy(torch.ones(1, 8)), form)})
    >>> found = RestoredActivations(records_of_activations(record))
    >>> found, found.at(7, "mid_block").shape, found.form_of(7, "mid_block") == form
    (RestoredActivations(1 steps of 1 tensors), torch.Size([1, 8]), True)
    """
    places: dict[str, Place] = {}
    kept: list[list[Any]] = []
    forms: dict[str, int] = {}  # most tensors of a run share theirs
    for index in record.indices:
        for key, form in record.forms(index).items():
            name = f"{'outside' if index is None else index} {written_name(key)}"
            plain = json.dumps({**form.to_plain(), "shape": record.shape_of(index, key)})
            kept.append([name, index, written_name(key), forms.setdefault(plain, len(forms))])
            places[name] = (index, key)
    values = {"description": record.description, "forms": [*map(json.loads, forms)], "kept": kept}
    return HookRecords(values, TensorsByKey(places, lambda place: record.at(*place)))


class RestoredActivations(ActivationRecord):
    """A record of a saved run.

    Args:
        records: what `records_of_activations` returned.

    Raises ValueError for anything else.
    """

    def __init__(self, records: HookRecords) -> None:
        values = records.values
        self.description: Mapping[str, Any] = mapping(values["description"])
        self._steps: dict[int | None, dict[ActivationKey, ActivationForm]] = {}
        self._shapes: dict[Place, tuple[int, ...]] = {}
        names: dict[Place, str] = {}
        forms = [
            (ActivationForm.from_plain(own), tuple(count(size, MOST_NUMBERS) for size in listed(own["shape"])))
            for own in map(mapping, listed(values["forms"], MOST_ENTRIES))
        ]
        for form, shape in forms:
            form.check(shape)
        for name, index, written, number in (listed(own, 4) for own in listed(values["kept"], MOST_ENTRIES)):
            key, (form, shape) = read_name(written), forms[count(number, len(forms) - 1)]
            step = None if index is None else count(index)
            self._steps.setdefault(step, {})[key] = form
            names[step, key], self._shapes[step, key] = text(name), shape
        self._tensors = TensorsByKey(names, records.tensors.__getitem__)

    @property
    def indices(self) -> list[int | None]:
        return list(self._steps)

    def forms(self, index: int | None) -> Mapping[ActivationKey, ActivationForm]:
        if index not in self._steps:
            raise self._refuse(index)
        return self._steps[index]

    def shape_of(self, index: int | None, key: ActivationKey) -> tuple[int, ...]:
        return self._shapes[index, key]

    def write(self, index: int | None, kept: Mapping[ActivationKey, Kept]) -> None:
        raise ValueError("this record belongs to a run that was saved, and nothing can be added to it")

    def finish(self) -> None:
        return

    def _read(self, index: int | None, key: ActivationKey, rows: slice) -> Tensor:
        found, shape = self._tensors[index, key], self._shapes[index, key]
        if tuple(found.shape) != shape:
            raise ValueError(f"{key} is a tensor {list(found.shape)}, and {list(shape)} is described")
        return found[rows]

    def __repr__(self) -> str:
        return f"RestoredActivations({len(self._steps)} steps of {len(self.keys)} tensors)"
