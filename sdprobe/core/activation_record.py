"""`ActivationRecord`: the activations kept of a run, by step and tensor, in memory or in a folder.

A folder has one safetensors file for each step, written when the step is complete, and ``outside.safetensors`` for
what passed outside of the steps: in a text encoder or the autoencoder. ``record.json`` holds the description of the
run. A tensor is read when it is asked for.
"""

from __future__ import annotations

import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activation_form import ActivationForm as ActivationForm
from sdprobe.core.activation_form import ActivationKey as ActivationKey
from sdprobe.core.activation_form import RowLabel as RowLabel
from sdprobe.core.activation_form import read_json, read_name, written_name
from sdprobe.core.atomic_file import write_atomically
from sdprobe.core.cpu_copy import CpuCopy, settle
from sdprobe.core.short_repr import short_repr
from sdprobe.core.step_files import StepFiles


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
    ([0, 1, 2], [ActivationKey(name='mid_block', side='output', stream='hidden')], torch.Size([3, 1, 8]))
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
    def write(self, index: int | None, kept: Mapping[ActivationKey, Kept]) -> None:
        """Record a step that is complete. One that is there is replaced."""

    @abstractmethod
    def finish(self) -> None:
        """Wait for what is still on its way to the CPU."""

    @abstractmethod
    def _read(self, index: int | None, key: ActivationKey) -> Tensor: ...

    @staticmethod
    def open(folder: str | Path) -> ActivationFolder:
        """Return the record in a folder, of this or an earlier process, also of a run that goes on or was interrupted.

        Raises:
            FileNotFoundError: if there is no such folder, or no record in it.
            ValueError: for a ``record.json`` that is not one.
        """
        return ActivationFolder(folder)

    @property
    def keys(self) -> list[ActivationKey]:
        """The keys of everything kept, in the order in which the network passes them."""
        return list(dict.fromkeys(key for index in self.indices for key in self.forms(index)))

    def key_of(self, name: str | ActivationKey, *, stream: str | None = None, side: str | None = None) -> ActivationKey:
        """Return the one key of a module's name; of a side and a stream, where several were kept.

        Raises KeyError, with the choices, if none fits or several do.
        """
        asked = name if isinstance(name, ActivationKey) else ActivationKey(name, side or "", stream or "")
        keys = self.keys
        found = [key for key in keys if all(own in ("", of) for own, of in zip(asked, key, strict=True))]
        if len(found) == 1:
            return found[0]
        if found:
            raise KeyError(f"{asked.name!r} has several tensors: say side= and stream=, of {_listed(found)}")
        what = repr(asked.name) + "".join(f", {part}" for part in asked[1:] if part)
        near = [key for key in keys if key.name in difflib.get_close_matches(asked.name, [k.name for k in keys], 6)]
        raise KeyError(f"{what} was not kept; kept: {_listed(near or keys) or 'nothing'}")

    def at(self, index: int | None, key: ActivationKey | str) -> Shaped[Tensor, "rows ..."]:
        """Return one tensor of one step. Raises KeyError if it was not kept."""
        return self._read(index, self._kept(index, key))

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
            raise KeyError(f"the tensors kept of {_said(index)} differ in their rows: give one of the keys")
        return next(iter(found))

    def indices_of(self, key: ActivationKey | str) -> list[int | None]:
        """Return the steps of which a tensor was kept, in order."""
        asked = self.key_of(key)
        return [index for index in self.indices if asked in self.forms(index)]

    def axes_of(self, key: ActivationKey | str) -> tuple[str, ...]:
        """Return the names of the axes of ``record[key]``: ``("steps", "rows", "channels", "h", "w")``."""
        return ("steps", *self.form_of(self.indices_of(key)[0], key).axes)

    def __getitem__(self, key: ActivationKey | str) -> Shaped[Tensor, "steps rows ..."]:
        """Return one tensor over all steps with it. Raises KeyError if it was not kept, or its shape changed."""
        asked = self.key_of(key)
        tensors = [self._read(index, asked) for index in self.indices_of(asked)]
        if len(shapes := dict.fromkeys(tuple(x.shape) for x in tensors)) > 1:
            raise KeyError(
                f"{asked} has not the same shape in all steps ({', '.join(map(str, map(list, shapes)))}): read each "
                f"step with at(index, key)"
            )
        return torch.stack(tensors)

    def _kept(self, index: int | None, key: ActivationKey | str) -> ActivationKey:
        forms = self.forms(index)
        asked = key if isinstance(key, ActivationKey) else self.key_of(key)
        if asked not in forms:
            raise KeyError(f"{asked} was not kept of {_said(index)}; kept: {_listed(list(forms)) or 'nothing'}")
        return asked

    def _refuse(self, index: int | None) -> KeyError:
        return KeyError(f"nothing was kept of {_said(index)}; kept: {', '.join(map(_said, self.indices)) or 'nothing'}")


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

    def write(self, index: int | None, kept: Mapping[ActivationKey, Kept]) -> None:
        self._on_their_way += [own.copy for own in kept.values()]
        settle(self._on_their_way)
        self._on_their_way = [own for own in self._on_their_way if not own.arrived]
        self._steps[index] = dict(kept)

    def finish(self) -> None:
        for own in self._on_their_way:
            _ = own.value
        self._on_their_way = []

    def _read(self, index: int | None, key: ActivationKey) -> Tensor:
        return self._steps[index][key].copy.value

    def __repr__(self) -> str:
        return f"HeldActivations({len(self._steps)} steps of {len(self.keys)} tensors)"


class ActivationFolder(ActivationRecord):
    """A record in a folder. Make one with `ActivationRecord.open` to read, with `ActivationFolder.begun` to write.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files = StepFiles(folder, rest="outside")
        self._in_flight: list[tuple[int | None, Mapping[ActivationKey, Kept]]] = []
        self._forms: dict[int | None, Mapping[ActivationKey, ActivationForm]] = {}
        try:
            self.description = read_json((self.folder / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no record of activations in {str(folder)!r}") from None
        except ValueError as error:
            raise ValueError(f"{str(self.folder / 'record.json')!r} describes no record: {error}") from error

    @classmethod
    def begun(cls, folder: str | Path, description: Mapping[str, Any]) -> ActivationFolder:
        """Begin a record in an empty folder, or go on with the one that is there, if it has the same description.

        Steps that are written again replace those that are there; all others stay.

        Raises ValueError for a folder that holds something else, or the record of another description.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        plain = json.loads(json.dumps(description))
        if any(not path.name.startswith(".") for path in Path(folder).iterdir()):
            if not (Path(folder) / "record.json").exists():
                raise ValueError(f"the folder {str(folder)!r} has something in it that is no record of activations")
            there = cls(folder).description
            differ = [name for name in {**plain, **there} if plain.get(name) != there.get(name)]
            if differ:
                raise ValueError(
                    f"the folder {str(folder)!r} holds the record of another run: "
                    + "; ".join(
                        f"{name} is {short_repr(there.get(name))} there, {short_repr(plain.get(name))} here"
                        for name in differ
                    )
                    + ". Every run needs a folder of its own"
                )
        with write_atomically(Path(folder) / "record.json") as beside:
            beside.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        return cls(folder)

    @property
    def indices(self) -> list[int | None]:
        return [*self._files.indices, *([None] if self._files.has(None) else [])]

    def forms(self, index: int | None) -> Mapping[ActivationKey, ActivationForm]:
        if index not in self._forms:
            if not self._files.has(index):
                raise self._refuse(index)
            with self._files.open(index) as file:
                self._forms[index] = self._checked(file, self._files.path(index))
        return self._forms[index]

    def write(self, index: int | None, kept: Mapping[ActivationKey, Kept]) -> None:
        # A step still on its way from a GPU is written with the next one, so that the GPU is not waited for.
        self._in_flight.append((index, dict(kept)))
        while len(self._in_flight) > 1 or (self._in_flight and _arrived(self._in_flight[0][1])):
            self._write_first()

    def finish(self) -> None:
        while self._in_flight:
            self._write_first()

    def _write_first(self) -> None:
        index, kept = self._in_flight.pop(0)
        tensors = {written_name(key): own.copy.value for key, own in kept.items()}
        forms = [[written_name(key), own.form.to_plain()] for key, own in kept.items()]
        self._files.write(index, tensors, {"activations": json.dumps(forms)})
        self._forms.pop(index, None)

    def _read(self, index: int | None, key: ActivationKey) -> Tensor:
        with self._files.open(index) as file:
            found: Tensor = file.get_tensor(written_name(key))
        return found

    @staticmethod
    def _checked(file: Any, path: Path) -> Mapping[ActivationKey, ActivationForm]:
        """Return the forms that a file describes, if they are those of its tensors."""
        try:
            described = json.loads((file.metadata() or {}).get("activations", "null"))
            forms = {read_name(name): ActivationForm.from_plain(form) for name, form in described}
            if sorted(map(written_name, forms)) != sorted(file.keys()):
                raise ValueError("the tensors described are not those in the file")
            for key, form in forms.items():
                form.check(tuple(file.get_slice(written_name(key)).get_shape()))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} holds no activations of a step: {error}") from error
        return forms

    def __repr__(self) -> str:
        return f"ActivationFolder({str(self.folder)!r}, {len(self.indices)} steps)"


def _arrived(kept: Mapping[ActivationKey, Kept]) -> bool:
    return all(own.copy.arrived for own in kept.values())


def _listed(keys: list[ActivationKey]) -> str:
    return ", ".join(map(str, keys[:12])) + f" and {len(keys) - 12} more" * (len(keys) > 12)


def _said(index: int | None) -> str:
    return "what is outside of the steps" if index is None else f"step {index}"
