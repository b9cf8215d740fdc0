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
from sdprobe.runs.run_folder import RunFolder, folder_of_hook

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
        try:
            self.description = HookDescription(
                said=_checked(entry["said"], str),
                kind=_checked(entry["kind"], str),
                name=_checked(entry["name"], str, None),
                config=_checked(entry["config"], dict),
                left_out=_checked(entry["left_out"], dict),
                pair=_checked(entry["pair"], list, None),
            )
            self.asked_as: tuple[str, ...] = tuple(_checked(name, str) for name in entry["asked_as"])
            self.inner: int | None = _checked(entry["inner"], int, None)
            self.images: tuple[int, ...] | None = (
                None if entry["images"] is None else tuple(_checked(own, int) for own in entry["images"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(folder.path)!r} describes no hook: {short_repr(entry)} ({error!r})") from error

    @property
    def kind(self) -> Kind | None:
        """The class of the hook, if it is registered by an installed package; None if not."""
        found = None if self.description.name is None else class_of(self.description.name)
        return found if found is not None and self.is_of(found) else None

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
            ValueError: if its files are not whole.
        """
        folder = folder_of_hook(self._number)
        written = self._folder.read_json(f"{folder}/records.json")
        if written.get("why"):
            raise KeyError(f"the records of {self} were not saved: {written['why']}")
        values, left_out = written.get("values"), written.get("left_out")
        if not isinstance(values, dict) or not isinstance(left_out, dict):
            raise ValueError(f"{folder}/records.json in {str(self._folder.path)!r} holds no records")
        tensors = self._folder.tensors(folder, written.get("tensors"))
        try:
            hook = self._made(kind, _checked(written.get("said"), str, None) or self.description.said)
            # A hook may have recorded something under the name of a method.
            kind.restore(hook, HookRecords(values, tensors, left_out), run)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            path = str(self._folder.path / folder)
            raise ValueError(f"{path!r} holds no records of {self}: {type(error).__name__}: {error}") from error
        return hook

    def _made(self, kind: Kind, said: str) -> Any:
        """Return the hook with its arguments. Only an observer is made by its constructor: it loads nothing."""
        own = self.description
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


def _checked(value: Any, kind: type, *others: None) -> Any:
    """Return a value of a kind. Raises ValueError for any other."""
    if (isinstance(value, kind) and not isinstance(value, bool)) or (others and value is None):
        return value
    raise ValueError(f"{short_repr(value)} where a {kind.__name__} is needed")
