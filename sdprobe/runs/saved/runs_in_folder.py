"""`Runs`: the saved runs below a folder: to go through, to filter by their settings, and as a table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.plot.printable import printable
from sdprobe.runs.saved.open_run import SavedRun
from sdprobe.runs.saved.run_folder import CLAIM, RunFolder
from sdprobe.runs.saved.run_settings_asked import fits, refuse_unknown
from sdprobe.runs.saved.runs_table import RunsTable

DEPTH = 5
"""How many folders deep runs are looked for."""


class Runs(Sequence[SavedRun]):
    """The saved runs below a folder, sorted by the path of their folder.

    >>> import tempfile
    >>> import sdprobe
    >>> model, folder = sdprobe.load(), tempfile.mkdtemp()
    >>> for seed in range(3):
    ...     settings = {"steps": 2 + seed % 2, "seed": seed, "progress": False}
    ...     run = sdprobe.sample(model, "a red circle", hooks=["latents"], **settings)
    ...     _ = run.save(f"{folder}/seed-{seed}")
    >>> runs = sdprobe.Runs(folder)
    >>> runs, runs["seed-1"], [run.seed for run in runs]
    (Runs(3 runs in '...'), Run('a red circle', 1 image of 64×64, 3 steps of DDIMScheduler, ... seed 1), [0, 1, 2])
    >>> runs.where(steps=2), runs.where(seed=lambda seed: seed > 0).names, len(runs.where(hooks="latents"))
    (Runs(2 runs in '...'), ('seed-1', 'seed-2'), 3)
    >>> print(runs.table({"norm": lambda run: run["latents"].final.norm()}))
    folder  saved                model                                        steps  seed   norm
    seed-0  20...  StableDiffusion(..., denoiser ...)      2     0  ...
    seed-1  20...  StableDiffusion(..., denoiser ...)      3     1  ...
    seed-2  20...  StableDiffusion(..., denoiser ...)      2     2  ...
    the same in all 3 runs: prompt 'a red circle', ...

    The folders are listed when this is made: at most five deep, without hidden ones and without following links. A run
    that is saved later is found by a new `Runs`. Nothing is read but the ``run.json`` of a run, once, when it is
    needed. Each time that a run is asked for it is opened anew, so what was read of it is freed with it, and going
    through thousands of runs takes no more memory than one of them.

    Folders that hold no whole run are left out with one warning, and listed in `broken`.

    Args:
        folder: the folder. One that holds a run itself counts as that run.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {str(folder)!r} to look for runs in")
        self._opened = _Opened(self.folder.absolute(), sorted(_found(self.folder, DEPTH)))
        self._names: Sequence[str] = [*self._opened.read]

    @property
    def names(self) -> tuple[str, ...]:
        """The path of each run's folder, from the folder of all."""
        return tuple(name for name, _ in self._heads())

    @property
    def broken(self) -> Mapping[Path, str]:
        """The folders that hold no whole run, with the reason. One not saved to its end can be opened by itself."""
        for name in self._opened.read:
            self._opened.head(name)
        return {self.folder / name: why for name, why in self._opened.read.items() if isinstance(why, str)}

    def where(self, **asked: Any) -> Runs:
        """Return the runs with these settings.

        >>> import tempfile
        >>> import sdprobe
        >>> sdprobe.Runs(tempfile.mkdtemp()).where(step=30)
        Traceback (most recent call last):
        ValueError: runs have no setting 'step'; did you mean 'steps'? What can be asked for: prompt, ...

        Args:
            asked: for each setting of `sdprobe.Settings` a value, or a function of the value that says whether it fits.
                Further: ``model``, by its repr, by what it was loaded from, or by the hash of its weights; and
                ``hooks``, by registered name, class, name of the class, or the name they were given by. Where a run has
                several (prompts, seeds, hooks), one that fits is enough. What is not known, as the seed of a run
                without one, fits no function.

        Raises ValueError for anything else.
        """
        refuse_unknown(asked)
        found = object.__new__(Runs)
        found.folder, found._opened = self.folder, self._opened
        found._names = [name for name, run in self._heads() if all(fits(run, *own) for own in asked.items())]
        return found

    def table(self, metrics: Mapping[str, Callable[[Run], Any]] | None = None) -> RunsTable:
        """Return a table with a row for each run: folder, time, model, the settings in which runs differ, and metrics.

        Args:
            metrics: functions of a run, by the name of their column. Where one raises an error, its cell says so.
        """
        return RunsTable(((name, run.opened_anew()) for name, run in self._heads()), metrics or {})

    @overload
    def __getitem__(self, asked: int | str) -> SavedRun: ...

    @overload
    def __getitem__(self, asked: slice) -> Runs: ...

    def __getitem__(self, asked: int | str | slice) -> SavedRun | Runs:
        """Return a run by its number, or by the path or name of its folder; runs by a slice."""
        if isinstance(asked, slice):
            found = object.__new__(Runs)
            found.folder, found._opened, found._names = self.folder, self._opened, self.names[asked]
            return found
        if isinstance(asked, str):
            return self._named(asked)
        if asked < 0:
            asked += len(self)
        head = next(islice(self._heads(), asked, None), None) if asked >= 0 else None
        if head is None:
            raise IndexError(f"there are {len(self)} runs in {str(self.folder)!r}, counted from 0")
        return head[1].opened_anew()

    def _named(self, asked: str) -> SavedRun:
        found = [own for own in self._names if asked == own] or [
            own for own in self._names if asked == own.rpartition("/")[2]
        ]
        said = short_repr(asked)
        if len(found) > 1:
            raise KeyError(f"{len(found)} folders are called {said}: ask with the path, such as {short_repr(found[0])}")
        if not found:
            raise KeyError(f"no run is called {said} in {str(self.folder)!r}; some that are: {short_repr(self._names)}")
        head = self._opened.head(found[0])
        if head is None:
            raise ValueError(f"{said} holds no whole run: {self._opened.read[found[0]]}")
        return head.opened_anew()

    def _heads(self) -> Iterator[tuple[str, SavedRun]]:
        for name in self._names:
            if (head := self._opened.head(name)) is not None:
                yield name, head

    def __iter__(self) -> Iterator[SavedRun]:
        return (run.opened_anew() for _, run in self._heads())

    def __len__(self) -> int:
        return sum(1 for _ in self._heads())

    def __repr__(self) -> str:
        count = len(self)
        return f"Runs({count} run{'s' * (count != 1)} in {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


class _Opened:
    """The runs of a folder as far as they were opened, by the path of each; a text where one could not be."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self._warned = folder, False
        self.read: dict[str, SavedRun | str | None] = dict.fromkeys(names)

    def head(self, name: str) -> SavedRun | None:
        """Return a run, of which nothing is to be read. For what is no whole run return None, and warn of the first."""
        if self.read[name] is None:
            self.read[name] = self._opened(self.folder / name)
        found = self.read[name]
        if not isinstance(found, str):
            return found
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"not every folder in {str(self.folder)!r} holds a whole run, and those that do not are left out; the "
                f"first is {printable(name, 200)!r}: {found}. See Runs.broken",
                stacklevel=4,
            )
        return None

    def _opened(self, path: Path) -> SavedRun | str:
        own = RunFolder(path)
        try:
            run = SavedRun(own, own.read_json("run.json"))
        except (ValueError, OSError) as error:
            return str(error)
        return run if run.complete else "it was not saved to its end, or is being saved"


def _found(folder: Path, depth: int, name: str = "") -> Iterator[str]:
    """Give the path of each folder that is that of a run, or was begun as one."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:  # removed since, or not ours to read
        return
    if any(entry.name in ("run.json", CLAIM) for entry in entries):
        yield name or "."
    elif depth:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _found(Path(entry.path), depth - 1, f"{name}/{entry.name}".lstrip("/"))
