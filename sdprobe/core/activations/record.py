"""`ActivationRecord`: the activations kept of a run, by step and tensor, in memory or in a folder."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.flat import FlatActivations, flatten
from sdprobe.core.activations.form import ActivationForm as ActivationForm
from sdprobe.core.activations.form import ActivationKey as ActivationKey
from sdprobe.core.activations.form import RowLabel as RowLabel
from sdprobe.core.cpu_copy import CpuCopy, settle
from sdprobe.core.module_names import plain

if TYPE_CHECKING:
    from sdprobe.core.activations.folder import ActivationFolder

ALL = slice(None)


class Kept(NamedTuple):
    """One tensor of one step, on its way to the CPU, and what its axes mean."""

    copy: CpuCopy
    form: ActivationForm


class ActivationRecord(ABC):
    """Activations by step and key; the index None holds what passed outside of the steps.

    >>> import torch
    >>> record, form = HeldActivations(), ActivationForm(("rows", "width"), (RowLabel(0, "cond", "a red circle"),))
    >>> for step in range(3):
    ...     record.write(step, {ActivationKey("mid_block"): Kept(CpuCopy(torch.ones(1, 8)), form)})
    >>> record.indices, record.keys, record["mid_block"].shape
    ([0, 1, 2], [ActivationKey(name='mid_block', side='output', stream='hidden', call=0)], torch.Size([3, 1, 8]))
    >>> record["up_block"]
    Traceback (most recent call last):
    KeyError: "'up_block' was not kept; kept: mid_block (output, hidden)"

    Attributes:
        description: the hook and the settings of the run, as JSON holds them.
    """

    description: Mapping[str, Any]

    @property
    @abstractmethod
    def indices(self) -> list[int | None]:
        """The numbers of the steps kept, in order; last, None, if something outside of the steps was kept."""

    @abstractmethod
    def forms(self, index: int | None) -> Mapping[ActivationKey, ActivationForm]:
        """Return the form of everything kept of one step. Raises KeyError for a step that was not kept."""

    @abstractmethod
    def shape_of(self, index: int | None, key: ActivationKey) -> tuple[int, ...]:
        """Return the shape of one tensor of one step, without reading it."""

    @abstractmethod
    def write(self, index: int | None, kept: Mapping[ActivationKey, Kept]) -> None:
        """Record a step that is complete. One that is there is replaced."""

    @abstractmethod
    def finish(self) -> None:
        """Wait for what is still on its way to the CPU."""

    @abstractmethod
    def _read(self, index: int | None, key: ActivationKey, rows: slice) -> Tensor: ...

    @staticmethod
    def open(folder: str | Path) -> ActivationFolder:
        """Return the record in a folder, of this or an earlier process, also of a run that goes on or was interrupted.

        Raises:
            FileNotFoundError: if there is no such folder, or no record in it.
            ValueError: for a ``record.json`` that is not one, and for a file in place of the folder.
        """
        from sdprobe.core.activations.folder import ActivationFolder  # which is an ActivationRecord itself

        return ActivationFolder(folder)

    @property
    def keys(self) -> list[ActivationKey]:
        """The keys of everything kept, in the order in which the network passes them."""
        return list(dict.fromkeys(key for index in self.indices for key in self.forms(index)))

    def key_of(
        self, name: str | ActivationKey, *, stream: str | None = None, side: str | None = None, call: int | None = None
    ) -> ActivationKey:
        """Return the one key of a module's name; of a side, a stream and a call, where several were kept.

        Raises KeyError, with the choices, if none fits or several do.
        """
        asked = name if isinstance(name, ActivationKey) else (plain(name), side, stream, call)
        keys = self.keys
        found = [key for key in keys if all(own in (None, of) for own, of in zip(asked, key, strict=True))]
        if len(found) == 1:
            return found[0]
        if found:
            differ = [
                what
                for what, own in zip(ActivationKey._fields, zip(*found, strict=True), strict=True)
                if len(set(own)) > 1
            ]
            said = " and ".join(f"{what}=" for what in differ)
            raise KeyError(f"{asked[0]!r} has several tensors: say {said}, of {listed(found)}")
        what = repr(asked[0]) + "".join(f", {part}" for part in asked[1:] if part is not None)
        near = [key for key in keys if key.name in difflib.get_close_matches(asked[0], [k.name for k in keys], 6)]
        raise KeyError(f"{what} was not kept; kept: {listed(near or keys) or 'nothing'}")

    def at(self, index: int | None, key: ActivationKey | str, rows: slice = ALL) -> Shaped[Tensor, "rows ..."]:
        """Return one tensor of one step, or some of its rows. Raises KeyError if it was not kept."""
        return self._read(index, self._kept(index, key), rows)

    def form_of(self, index: int | None, key: ActivationKey | str) -> ActivationForm:
        """Return what the axes of one tensor of one step mean. Raises KeyError if it was not kept."""
        return self.forms(index)[self._kept(index, key)]

    def rows_at(self, index: int | None, key: ActivationKey | str | None = None) -> tuple[RowLabel, ...]:
        """Return what each entry of a step's tensors is; of one tensor, if a key is given.

        Raises KeyError for a step that was not kept, and where the tensors of a step differ and no key is given.
        """
        if key is not None:
            return self.form_of(index, key).rows
        found = dict.fromkeys(form.rows for form in self.forms(index).values())
        if len(found) != 1:
            raise KeyError(f"the tensors kept of {said_of(index)} differ in their rows: give one of the keys")
        return next(iter(found))

    def indices_of(self, key: ActivationKey | str) -> list[int | None]:
        """Return the steps of which a tensor was kept, in order."""
        asked = self.key_of(key)
        return [index for index in self.indices if asked in self.forms(index)]

    def axes_of(self, key: ActivationKey | str) -> tuple[str, ...]:
        """Return the names of the axes of ``record[key]``: ``("steps", "rows", "channels", "h", "w")``."""
        return ("steps", *self.form_of(self.indices_of(key)[0], key).axes)

    def __getitem__(self, key: ActivationKey | str) -> Shaped[Tensor, "steps rows ..."]:
        """Return one tensor over all steps with it.

        Raises KeyError if it was not kept, and if its shape or its rows are not the same in all steps.
        """
        asked = self.key_of(key)
        indices = self.indices_of(asked)
        tensors = [self._read(index, asked, ALL) for index in indices]
        if len(shapes := dict.fromkeys(tuple(x.shape) for x in tensors)) > 1:
            raise KeyError(
                f"{asked} has not the same shape in all steps ({', '.join(map(str, map(list, shapes)))}): read each "
                f"step with at(index, key)"
            )
        if len(dtypes := dict.fromkeys(x.dtype for x in tensors)) > 1:
            raise KeyError(
                f"{asked} has not the same dtype in all steps ({', '.join(map(str, dtypes))}): read each step with "
                f"at(index, key)"
            )
        if len(rows := {self.forms(index)[asked].rows: index for index in indices}) > 1:
            raise KeyError(
                f"{asked} has not the same rows in all steps (see rows_at of {', '.join(map(said_of, rows.values()))}):"
                f" read each step with at(index, key)"
            )
        return torch.stack(tensors)

    def flat(
        self, name: str | ActivationKey, *, stream: str | None = None, side: str | None = None, call: int | None = None
    ) -> FlatActivations:
        """Return one tensor of all steps as vectors, with a table of what each of them is. Raises KeyError as `key_of`.

        >>> record, form = HeldActivations(), ActivationForm(("rows", "width"), (RowLabel(0, "cond", "a red circle"),))
        >>> record.write(7, {ActivationKey("mid_block"): Kept(CpuCopy(torch.ones(1, 8)), form)})
        >>> record.flat("mid_block"), record.flat("mid_block").table["step"]
        (FlatActivations(1 vectors of width 8), array([7]))
        """
        key = self.key_of(name, stream=stream, side=side, call=call)
        return flatten({index: (self._read(index, key, ALL), self.forms(index)[key]) for index in self.indices_of(key)})

    def _kept(self, index: int | None, key: ActivationKey | str) -> ActivationKey:
        forms = self.forms(index)
        asked = key if isinstance(key, ActivationKey) else self.key_of(key)
        if asked not in forms:
            raise KeyError(f"{asked} was not kept of {said_of(index)}; kept: {listed(list(forms)) or 'nothing'}")
        return asked

    def _refuse(self, index: int | None) -> KeyError:
        kept = ", ".join(map(said_of, self.indices)) or "nothing"
        return KeyError(f"nothing was kept of {said_of(index)}; kept: {kept}")


class HeldActivations(ActivationRecord):
    """A record in memory."""

    def __init__(self, description: Mapping[str, Any] | None = None) -> None:
        self.description = description or {}
        self._steps: dict[int | None, Mapping[ActivationKey, Kept]] = {}
        self._on_their_way: list[CpuCopy] = []

    @property
    def indices(self) -> list[int | None]:
        return sorted(self._steps, key=lambda index: (index is None, index or 0))

    def forms(self, index: int | None) -> Mapping[ActivationKey, ActivationForm]:
        if index not in self._steps:
            raise self._refuse(index)
        return {key: own.form for key, own in self._steps[index].items()}

    def shape_of(self, index: int | None, key: ActivationKey) -> tuple[int, ...]:
        return tuple(self._read(index, key, ALL).shape)

    def write(self, index: int | None, kept: Mapping[ActivationKey, Kept]) -> None:
        self._on_their_way += [own.copy for own in kept.values()]
        settle(self._on_their_way)
        self._on_their_way = [own for own in self._on_their_way if not own.arrived]
        self._steps[index] = dict(kept)

    def finish(self) -> None:
        for own in self._on_their_way:
            _ = own.value
        self._on_their_way = []

    def _read(self, index: int | None, key: ActivationKey, rows: slice) -> Tensor:
        return self._steps[index][key].copy.value[rows]

    def __repr__(self) -> str:
        return f"HeldActivations({len(self._steps)} steps of {len(self.keys)} tensors)"


def listed(keys: list[ActivationKey]) -> str:
    """Return the first of some keys, for an error."""
    return ", ".join(map(str, keys[:12])) + f" and {len(keys) - 12} more" * (len(keys) > 12)


def said_of(index: int | None) -> str:
    """Return the words for the number of a step."""
    return "what is outside of the steps" if index is None else f"step {index}"
