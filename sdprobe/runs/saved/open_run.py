"""`open_run`: a run from the folder it was saved to; `SavedRun`: such a run, read part by part as it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL.Image import Image
from torch import Tensor

from sdprobe.core.coverage import Coverage, HookCalls
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.hook_configuration import describe
from sdprobe.core.limits.row_subset import PartialRun
from sdprobe.core.nan_trace import NanTrace
from sdprobe.core.prompt import Prompt
from sdprobe.core.rows import read_roles
from sdprobe.core.run import Role, Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_prompt import read_prompt
from sdprobe.core.written_values import MOST_ENTRIES, count, flag, line, listed, mapping, text, whole
from sdprobe.plot.printable import printable
from sdprobe.runs.saved.run_folder import FORMAT, SCHEMA, SIDES, RunFolder
from sdprobe.runs.saved.saved_hook import Kind, SavedHook
from sdprobe.runs.saved.written_settings import read_level, read_provenance, read_settings


def open_run(folder: str | Path) -> SavedRun:
    """Open a run that was saved. It answers as it did before, without its model.

    >>> import tempfile
    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks={"maps": maps}, steps=3, seed=0, progress=False)
    >>> folder = run.save(tempfile.mkdtemp())
    >>> again = sdprobe.open(folder)
    >>> again, again["maps"].heat_map("circle")
    (Run('a red circle', 1 image of 64×64, 3 steps of DDIMScheduler, guidance 7.5, seed 0), HeatMap('circle', 16×16))
    >>> bool((again.latents == run.latents).all())
    True

    Nothing is read but ``run.json`` until it is asked for: then one image, or one tensor. Ask for the records of a hook
    with the name that the run was given it by, with its registered name, its class, or a hook with the same arguments.
    A hook whose class no installed package registers is asked for with its class.

    Args:
        folder: the folder that `Run.save` wrote.

    Returns:
        A `Run` without ``model``; `Run.provenance` says which it was.

    Raises:
        FileNotFoundError: if there is no such folder, or no run in it.
        ValueError: for a folder that a newer version of sdprobe wrote, and for files that are not those of a run.

    A run that was not saved to its end is opened with a warning, and what is whole of it can be read.
    """
    path = Path(folder)
    if not (path / "run.json").is_file():
        raise FileNotFoundError(f"there is no saved run in {str(folder)!r}: it has no run.json")
    own = RunFolder(path.absolute())  # it is read later, maybe from another working directory
    run = SavedRun(own, own.read_json("run.json"))
    if not run.complete:
        warnings.warn(
            f"the run in {str(folder)!r} was not saved to its end: what is missing raises an error when it is asked "
            f"for, all else can be read",
            stacklevel=2,
        )
    return run


class SavedRun(Run):
    """A run in a folder. See `sdprobe.open`.

    Args:
        folder: the folder.
        content: the content of ``run.json``.

    Attributes:
        complete: whether it was saved to its end.
        saved: when it was saved, as ISO 8601 in UTC.
        folder: the path of the folder.
    """

    def __init__(self, folder: RunFolder, content: Mapping[str, Any]) -> None:
        self._folder, self.folder = folder, folder.path
        self._refuse_other_formats(content)
        self.nan_trace = NanTrace()
        try:
            self.complete = flag(content["complete"])
            self.saved = line(content["saved"])
            self.settings = read_settings(mapping(content["settings"]))
            self.roles: tuple[Role, ...] = read_roles(content["roles"])
            self.resumed_at = count(content["resumed_at"])
            # Runs of the first version could not be stopped, and do not say.
            self.stopped_at = None if (at := content.get("stopped_at")) is None else count(at)
            self.attached = flag(content["attached"])
            self.levels = tuple(map(read_level, listed(content["levels"])))
            self._provenance = read_provenance(mapping(content["provenance"]))
            self._images = count(content["images"])
            self._count_frames()
            self._has_latents = flag(content["latents"])
            self.hooks = tuple(SavedHook(folder, i, entry) for i, entry in enumerate(listed(content["hooks"])))
            for own in self.hooks:
                if own.inner is not None and self.hooks[count(own.inner, len(self.hooks) - 1)].inner is not None:
                    raise ValueError(f"a limited hook holds number {own.inner}, which is limited too")
        except (KeyError, ValueError) as error:
            said = short_repr(error)
            raise ValueError(f"{str(folder.path / 'run.json')!r} describes no run: {said}") from error
        self._model_name = self._provenance.model
        self.names = {name: hook for hook in self.hooks for name in hook.asked_as}
        self._restored: dict[tuple[int, type], Any] = {}

    def _count_frames(self) -> None:
        """Set the number of frames to that of the images: older versions wrote the number that was asked for."""
        each, left = divmod(self._images, self.settings.images or 1)
        if self.settings.frames is not None and each and not left:
            self.settings = replace(self.settings, frames=each)

    def _refuse_other_formats(self, content: Mapping[str, Any]) -> None:
        schema = content.get("schema")
        if content.get("format") != FORMAT or not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise ValueError(f"{str(self.folder / 'run.json')!r} describes no run of sdprobe")
        if schema > SCHEMA:
            raise ValueError(
                f"the run in {str(self.folder)!r} has schema {short_repr(schema)}, and this version of sdprobe reads "
                f"schemas up to {SCHEMA}: install a newer one"
            )

    def save(self, folder: str | Path) -> Path:
        return self._folder.copy_to(folder)

    def opened_anew(self) -> SavedRun:
        """Return the same run with nothing read but ``run.json``: what is read of it is freed with it."""
        made = object.__new__(type(self))
        vars(made).update({name: own for name, own in vars(self).items() if name not in _PARTS})
        made._restored = {}
        return made

    def __getattr__(self, name: str) -> Any:
        """Read a part of the run when it is first asked for."""
        if name == "model":
            raise AttributeError(
                f"this run was opened from {str(self.folder)!r}, which holds no model; it was made by {self.model_name}"
            )
        read = _PARTS.get(name)
        if read is None:
            return super().__getattr__(name)
        vars(self)[name] = found = read(self)
        return found

    def __getitem__(self, hook: object) -> Any:
        kind: Any = hook if isinstance(hook, type) else type(hook)
        found = [own for own in self.hooks if self._is_asked(own, hook)]
        if len(found) == 1:
            inner = found[0].inner
            return self.record_of(found[0] if inner is None else self.hooks[inner], kind)
        if found:
            raise KeyError(f"{hook!r} is the same as {len(found)} hooks of this run: ask by the names they were given")
        names = [short_repr(name) for own in self.hooks for name in (*own.asked_as, own.description.name) if name]
        raise KeyError(
            f"{short_repr(hook)} is not a hook of this run; its hooks are {_some(map(str, self.hooks))}; ask by class, "
            f"or by name: {_some(names)}"
        )

    def record_of(self, hook: SavedHook, kind: Kind | None = None) -> Any:
        """Return the run's copy of a hook; restored when it is first asked for.

        Args:
            hook: one of `hooks`.
            kind: its class, for a hook whose class no installed package registers.

        Raises KeyError if the class is not known, and if the records could not be saved.
        """
        known = hook.kind or (kind if kind is not None and hook.is_of(kind) else None)
        if known is None:
            raise KeyError(
                f"the class of {printable(str(hook), 200)} is {printable(hook.description.kind, 200)}, which no "
                f"installed package registers as a hook: import it, and ask with the class"
            )
        number = self.hooks.index(hook)
        if (number, known) not in self._restored:
            part = self if hook.images is None else self._part(hook.images)
            self._restored[number, known] = hook.restored(part, known)
        return self._restored[number, known]

    def _part(self, images: Sequence[int]) -> Run:
        if any(not 0 <= image < self.settings.images for image in images):
            said = short_repr(images)
            raise ValueError(f"{str(self.folder)!r} limits a hook to images {said}, which the run does not have")
        _ = self.prompts, self.negative_prompts, self.coverage  # which a part shares
        try:
            return PartOfSavedRun(self, images)
        except IndexError as error:
            raise ValueError(f"{str(self.folder)!r} has no seed or prompt for each of its images") from error

    def _is_asked(self, own: SavedHook, asked: object) -> bool:
        if asked is own:
            return True
        if isinstance(asked, str):
            given = [hook for hook in self.hooks if asked in hook.asked_as]
            return own in given if given else asked == own.description.name
        if isinstance(asked, type):
            kind = own.kind
            return own.is_of(asked) or (kind is not None and issubclass(kind, asked))
        if not isinstance(asked, (Observer, Transform)):
            return False
        said, written = describe(asked), own.description
        if said.pair is not None or written.pair is not None or said.left_out:
            return said.pair is not None and said.pair == written.pair
        return own.is_of(type(asked)) and said.config == written.config and not written.left_out

    def _read_records(self) -> list[tuple[object, Any]]:
        found: list[tuple[object, Any]] = []
        for own in self.hooks:
            if own.inner is None and own.kind is not None:
                with suppress(KeyError):  # its records could not be saved: whoever asks for it is told why
                    found.append((own, self.record_of(own)))
        return found


class PartOfSavedRun(PartialRun):
    """Some images of a saved run. Its hooks are those of the whole, and are asked for alike."""

    def __getitem__(self, hook: object) -> Any:
        return self._whole[hook]

    def __getattr__(self, name: str) -> Any:
        return self._whole.records if name == "records" else super().__getattr__(name)


def _read_prompts(run: SavedRun, side: str) -> tuple[Prompt, ...]:
    found, path = run._folder.read_json("prompts.json").get(side), run.folder / "prompts.json"
    expected = len(run.settings.prompt)
    if not isinstance(found, list) or len(found) != expected:
        raise ValueError(f"{str(path)!r} does not hold the {expected} {side.replace('_', ' ')} of the run")
    try:
        return tuple(map(read_prompt, found))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} holds no prompts: {printable(str(error), 500)}") from error


def _read_latents(run: SavedRun) -> Tensor | None:
    if not run._has_latents:
        return None
    return run._folder.tensors(".", {"latents": "tensors-0000.safetensors"})["latents"]


def _read_images(run: SavedRun) -> list[Image]:
    made = run.settings.images * (run.settings.frames or 1)  # every frame of a video is an image
    if run._images not in (0, made):
        path = str(run.folder / "run.json")
        raise ValueError(f"{path!r} says that {run._images} images were saved, of a run of {made}")
    return [run._folder.read_image(f"images/{i:04d}.png") for i in range(run._images)]


def _read_coverage(run: SavedRun) -> Coverage:
    found = run._folder.read_json("coverage.json")
    try:
        sites, asked = ({line(k): line(v) for k, v in mapping(found[name]).items()} for name in ("sites", "asked"))
        return Coverage(
            sites,
            asked,
            seen={line(name): whole(times) for name, times in mapping(found["seen"]).items()},
            missed={line(name): printable(text(why)) for name, why in mapping(found["missed"]).items()},
            uncompiled={line(name) for name in listed(found["uncompiled"])},
            hooks=[_calls(mapping(own)) for own in listed(found["hooks"])],
            passed=dict.fromkeys(map(line, listed(found.get("passed", []), MOST_ENTRIES))),
            unknown=tuple(printable(text(what)) for what in listed(found.get("unknown", []))),
        )
    except (KeyError, ValueError) as error:
        said = short_repr(error)
        raise ValueError(f"{str(run.folder / 'coverage.json')!r} holds no coverage: {said}") from error


def _calls(written: Mapping[str, Any]) -> HookCalls:
    calls = {line(point): whole(times) for point, times in mapping(written["calls"]).items()}
    return HookCalls(printable(text(written["hook"]), lines=True), calls, flag(written["strict"]))


_PARTS: Mapping[str, Any] = MappingProxyType(
    {side: lambda run, side=side: _read_prompts(run, side) for side in SIDES}
    | {"images": _read_images, "latents": _read_latents, "coverage": _read_coverage, "records": SavedRun._read_records}
)
"""How each part of a saved run is read that is not in ``run.json``."""


def _some(names: Iterable[str], most: int = 5, longest: int = 60) -> str:
    """Return the first of some names, shortened, for an error of a few lines."""
    every = list(names)
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return ", ".join([printable(name, longest) for name in every[:most]] + more) or "(none)"
