"""`open_run`: a run from the folder it was saved to; `SavedRun`: such a run, read part by part as it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from PIL.Image import Image
from torch import Tensor

from sdprobe.core.coverage import Coverage, HookCalls
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.hook_configuration import describe
from sdprobe.core.limits.row_subset import PartialRun
from sdprobe.core.nan_trace import NanTrace
from sdprobe.core.prompt import Prompt
from sdprobe.core.provenance import Provenance
from sdprobe.core.run import Role, Run, Settings
from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_prompt import read_prompt
from sdprobe.runs.run_folder import FORMAT, SCHEMA, SIDES, RunFolder
from sdprobe.runs.saved_hook import Kind, SavedHook

MOST = 10_000  # images, steps and hooks of a run: more is no run, and must not cost its reader memory


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
    own = RunFolder(path)
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
            self.complete = content["complete"] is True
            self.saved = str(content["saved"])
            self.settings = _settings(content["settings"])
            self.roles: tuple[Role, ...] = tuple(_role(role) for role in content["roles"])
            self.resumed_at = int(content["resumed_at"])
            self._provenance = _provenance(content["provenance"])
            self._images = _count(content["images"])
            self._has_latents = content["latents"] is True
            self.hooks = tuple(SavedHook(folder, i, entry) for i, entry in enumerate(_listed(content["hooks"])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{str(folder.path / 'run.json')!r} describes no run: {error!r}") from error
        self._model_name = self._provenance.model
        self.names = {name: hook for hook in self.hooks for name in hook.asked_as}
        self._restored: dict[tuple[int, type], Any] = {}

    def _refuse_other_formats(self, content: Mapping[str, Any]) -> None:
        schema = content.get("schema")
        if content.get("format") != FORMAT or not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise ValueError(f"{str(self.folder / 'run.json')!r} describes no run of sdprobe")
        if schema > SCHEMA:
            raise ValueError(
                f"the run in {str(self.folder)!r} has schema {schema}, and this version of sdprobe reads schemas up to "
                f"{SCHEMA}: install a newer one"
            )

    def save(self, folder: str | Path) -> Path:
        return self._folder.copy_to(folder)

    def __getattr__(self, name: str) -> Any:
        """Read a part of the run when it is first asked for."""
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
        names = ", ".join(f"{name!r}" for own in self.hooks for name in (*own.asked_as, own.description.name) if name)
        raise KeyError(
            f"{hook!r} is not a hook of this run; its hooks are {', '.join(map(str, self.hooks)) or '(none)'}; ask by "
            f"class, or by name: {names or '(none)'}"
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
                f"the class of {hook} is {hook.description.kind}, which no installed package registers as a hook: "
                f"import it, and ask with the class"
            )
        number = self.hooks.index(hook)
        if (number, known) not in self._restored:
            part = self if hook.images is None else self._part(hook.images)
            self._restored[number, known] = hook.restored(part, known)
        return self._restored[number, known]

    def _part(self, images: Sequence[int]) -> Run:
        if any(not 0 <= image < self.settings.images for image in images):
            raise ValueError(f"{str(self.folder)!r} limits a hook to images {images}, which the run does not have")
        _ = self.prompts, self.negative_prompts, self.coverage  # which a part shares
        return PartialRun(self, images)

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


def _read_prompts(run: SavedRun, side: str) -> tuple[Prompt, ...]:
    found = run._folder.read_json("prompts.json").get(side)
    count = len(run.settings.prompt)
    if not isinstance(found, list) or len(found) != count:
        raise ValueError(f"{str(run.folder / 'prompts.json')!r} does not hold the {count} {side} of the run")
    return tuple(map(read_prompt, found))


def _read_latents(run: SavedRun) -> Tensor | None:
    if not run._has_latents:
        return None
    return run._folder.tensors(".", {"latents": "tensors-0000.safetensors"})["latents"]


def _read_images(run: SavedRun) -> list[Image]:
    return [run._folder.read_image(f"images/{i:04d}.png") for i in range(run._images)]


def _read_coverage(run: SavedRun) -> Coverage:
    found = run._folder.read_json("coverage.json")
    try:
        return Coverage(
            sites={str(name): str(kind) for name, kind in found["sites"].items()},
            asked={str(name): str(kind) for name, kind in found["asked"].items()},
            seen={str(name): int(count) for name, count in found["seen"].items()},
            missed={str(name): str(why) for name, why in found["missed"].items()},
            uncompiled={str(name) for name in found["uncompiled"]},
            hooks=[
                HookCalls(str(own["hook"]), {str(p): int(n) for p, n in own["calls"].items()}, own["strict"] is True)
                for own in found["hooks"]
            ],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(run.folder / 'coverage.json')!r} holds no coverage: {error!r}") from error


_PARTS: Mapping[str, Any] = MappingProxyType(
    {side: lambda run, side=side: _read_prompts(run, side) for side in SIDES}
    | {"images": _read_images, "latents": _read_latents, "coverage": _read_coverage, "records": SavedRun._read_records}
)
"""How each part of a saved run is read that is not in ``run.json``."""


def _settings(written: Any) -> Settings:
    if set(written) != {own.name for own in fields(Settings)}:
        raise ValueError(f"settings of other names: {short_repr(sorted(written))}")
    seed = written["seed"]
    found = Settings(
        prompt=tuple(map(_text, _listed(written["prompt"]))),
        negative_prompt=tuple(map(_text, _listed(written["negative_prompt"]))),
        steps=_count(written["steps"]),
        guidance_scale=float(written["guidance_scale"]),
        seed=tuple(map(int, seed)) if isinstance(seed, list) else None if seed is None else int(seed),
        scheduler=_text(written["scheduler"]),
        height=_count(written["height"], 1_000_000),
        width=_count(written["width"], 1_000_000),
        images_per_prompt=_count(written["images_per_prompt"]),
        negative_given=written["negative_given"] is True,
        strength=None if written["strength"] is None else float(written["strength"]),
        start_step=_count(written["start_step"]),
    )
    _count(found.images)
    return found


def _provenance(written: Any) -> Provenance:
    own = {
        name: None if written[name] is None else _text(written[name])
        for name in ("source", "weights", "dtype", "device")
    }
    versions = {_text(name): _text(number) for name, number in written["versions"].items()}
    return Provenance(_text(written["model"]), versions=versions, **own)


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{short_repr(given)} where a text is needed")
    return given


def _role(given: Any) -> Role:
    if given not in get_args(Role):
        raise ValueError(f"{short_repr(given)} is no role of a row")
    role: Role = given
    return role


def _count(given: Any, most: int = MOST) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= most:
        raise ValueError(f"{short_repr(given)} where a number from 0 to {most} is needed")
    return given


def _listed(given: Any) -> list[Any]:
    if not isinstance(given, list) or len(given) > MOST:
        raise ValueError(f"{short_repr(given)} where a list of at most {MOST} is needed")
    return given
