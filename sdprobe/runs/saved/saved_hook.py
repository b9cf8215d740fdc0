"""`SavedHook`: a hook of a saved run: its description, and its records, which are restored when they are asked for."""

from __future__ import annotations

import inspect
from typing import Any

from sdprobe.core.hook import Observer, Transform
from sdprobe.core.hook_configuration import HookDescription
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.registry import class_of
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_values import count, listed, mapping, text
from sdprobe.plot.printable import printable
from sdprobe.runs.saved.run_folder import RunFolder, folder_of_hook

Kind = type[Observer] | type[Transform]


class NotSaved:
    """In the place of an argument of a hook that no file can hold."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return f"<{self.what}, not saved>"


class SavedHook:
    """A hook of a saved run.

    Args:
        folder: the folder of the run.
        number: its number among the hooks of the run.
        entry: what ``run.json`` says of it.

    Attributes:
        description: its name and arguments, as far as a file can hold them.
        asked_as: the names under which the run is asked for it.
        inner: for a limited hook, the number of the hook inside it.
        images: the numbers of the images that it was limited to; None for all.

    Raises ValueError for an entry that describes no hook.
    """

    def __init__(self, folder: RunFolder, number: int, entry: Any) -> None:
        self._folder, self._number = folder, number
        self._kind: Kind | None = None
        try:
            entry = mapping(entry)
            self.description = HookDescription(
                said=printable(text(entry["said"]), lines=True),
                kind=text(entry["kind"]),
                name=None if entry["name"] is None else text(entry["name"]),
                config=mapping(entry["config"]),
                left_out={name: printable(text(what), 200) for name, what in mapping(entry["left_out"]).items()},
                pair=None if entry["pair"] is None else listed(entry["pair"]),
            )
            self.asked_as: tuple[str, ...] = tuple(map(text, listed(entry["asked_as"])))
            self.inner: int | None = None if entry["inner"] is None else count(entry["inner"])
            self.images: tuple[int, ...] | None = (
                None if entry["images"] is None else tuple(map(count, listed(entry["images"])))
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"hook {number} is none: {short_repr(entry)} ({short_repr(error)})") from error

    @property
    def kind(self) -> Kind | None:
        """The class of the hook, if it is registered by an installed package; None if not."""
        if self._kind is None and self.description.name is not None:
            found = class_of(self.description.name)
            self._kind = found if found is not None and self.is_of(found) else None
        return self._kind

    @property
    def called(self) -> tuple[str, ...]:
        """What it may be called: as it was given, by its registered name, by the name of its class."""
        own = self.description
        return (*self.asked_as, *([own.name] if own.name else []), own.kind.rpartition(":")[2])

    def is_of(self, kind: type) -> bool:
        """Whether the hook is of this very class."""
        return self.description.kind == f"{kind.__module__}:{kind.__qualname__}"

    def restored(self, run: Run, kind: Kind) -> Any:
        """Return the run's copy of the hook, with its records.

        Args:
            run: the run; of a hook that was limited to some images, the run of these.
            kind: its class.

        Raises:
            KeyError: if its records could not be saved, with the reason.
            ValueError: if its files are not whole, and if they hold something else than this class records.
        """
        folder = folder_of_hook(self._number)
        written = self._folder.read_json(f"{folder}/records.json")
        said, where = printable(str(self), 200), f"{folder}/records.json in {str(self._folder.path)!r}"
        if why := written.get("why"):
            raise KeyError(f"the records of {said} were not saved: {printable(str(why), 500)}")
        try:
            values, left_out = mapping(written["values"]), mapping(written["left_out"])
            tensors = self._folder.tensors(folder, written["tensors"])
            hook = self._made(kind, printable(text(written.get("said") or self.description.said), lines=True))
            # A hook may have recorded something under the name of a method.
            kind.restore(hook, HookRecords(values, tensors, left_out), run)
        except Exception as error:  # a class of somebody else may raise anything for what it did not write
            shown = f"{type(error).__name__}: {printable(str(error), 400)}"
            raise ValueError(f"the records of {said}, {where}, are not those of this hook: {shown}") from error
        return hook

    def _made(self, kind: Kind, said: str) -> Any:
        """Return the hook with its arguments. Only an observer is made by its constructor: it loads nothing."""
        own = self.description
        for name in (*own.config, *own.left_out):
            if name not in inspect.signature(kind).parameters:
                raise ValueError(f"{kind.__name__} has no argument {short_repr(name)}")
        if issubclass(kind, Observer) and not own.left_out:
            made: Any = kind(**own.config)
        else:
            made = object.__new__(kind)
            vars(made).update(self._arguments(kind))
        vars(made)["_said"] = said
        return made

    def _arguments(self, kind: Kind) -> dict[str, Any]:
        """Return the arguments as attributes: as they were written, or the usual ones, or a word on what they were."""
        own = self.description
        usual = {p.name: p.default for p in inspect.signature(kind).parameters.values() if p.default is not p.empty}
        found = {**usual, **own.config, **{name: NotSaved(what) for name, what in own.left_out.items()}}
        # An argument can have the name of a method, which must stay.
        return {f"_{name}" if callable(getattr(kind, name, None)) else name: value for name, value in found.items()}

    def __repr__(self) -> str:
        return self.description.said
