"""`ActivationFolder`: a record of activations on disk, with one safetensors file for each step.

A file is written when its step is complete; ``outside.safetensors`` holds what passed outside of the steps, in a text
encoder or the autoencoder. The metadata of each file say what the axes of its tensors mean, and ``record.json`` holds
the description of the run. So every complete step of an interrupted run can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdprobe.core.activations.form import ActivationForm, ActivationKey, read_json, read_name, written_name
from sdprobe.core.activations.record import ActivationRecord, Kept
from sdprobe.core.short_repr import short_repr
from sdprobe.core.step_files import StepFiles
from sdprobe.files.atomic_file import write_atomically


class ActivationFolder(ActivationRecord):
    """A record in a folder. A tensor is read when it is asked for.

    `ActivationRecord.open` makes one to read, `ActivationFolder.begun` one to write.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files = StepFiles(folder, rest="outside")
        self._in_flight: list[tuple[int | None, Mapping[ActivationKey, Kept]]] = []
        self._forms: dict[int | None, Mapping[ActivationKey, ActivationForm]] = {}
        if self.folder.is_file():
            raise ValueError(f"{str(folder)!r} is a file, and a record of activations is a folder")
        try:
            self.description = read_json((self.folder / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no record of activations in {str(folder)!r}") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{str(self.folder / 'record.json')!r} describes no record: {error}") from error

    @classmethod
    def begun(cls, folder: str | Path, description: Mapping[str, Any]) -> ActivationFolder:
        """Begin a record in an empty folder, or go on with the one that is there, if it has the same description.

        Steps that are written again replace those that are there; all others stay. So a run that was interrupted is
        started again with the same folder, or continued with `sdprobe.resume`.

        Raises ValueError for a folder that holds something else, or the record of another description.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        own = json.loads(json.dumps(description))
        if not any(not path.name.startswith(".") for path in Path(folder).iterdir()):
            with write_atomically(Path(folder) / "record.json") as beside:
                beside.write_text(json.dumps(own, indent=1), encoding="utf-8")
            return cls(folder)
        if not (Path(folder) / "record.json").exists():
            raise ValueError(f"the folder {str(folder)!r} has something in it that is no record of activations")
        found = cls(folder)
        there = found.description
        differ = [
            f"{name} is {short_repr(there.get(name))} there and {short_repr(own.get(name))} here"
            for name in {**own, **there}
            if own.get(name) != there.get(name)
        ]
        if differ:
            raise ValueError(
                f"the folder {str(folder)!r} holds the record of another run ({'; '.join(differ)}): every run needs a "
                f"folder of its own"
            )
        return found

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

    def shape_of(self, index: int | None, key: ActivationKey) -> tuple[int, ...]:
        with self._files.open(index) as file:
            return tuple(file.get_slice(written_name(key)).get_shape())

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

    def _read(self, index: int | None, key: ActivationKey, rows: slice) -> Tensor:
        with self._files.open(index) as file:
            found: Tensor = file.get_slice(written_name(key))[rows]
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
