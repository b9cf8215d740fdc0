"""`plan`: what an experiment will take, said before it runs: jobs, pictures, denoiser calls, time and disk."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

from sdprobe.core.compose import Hook
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import Sampler, SampleSettings
from sdprobe.experiments.experiment import Planned, Planning, experiment
from sdprobe.experiments.job import Job
from sdprobe.experiments.job_file import read_rows, text_of, write_rows
from sdprobe.experiments.run_job import Row, run_job
from sdprobe.files.atomic_file import make_folders
from sdprobe.observe.memory_budget import written
from sdprobe.plot.table import as_html, as_text


@dataclass(frozen=True, repr=False)
class Plan:
    """What a call of `experiment` will take from now on. It prints as a table.

    All is measured on one job, and multiplied: time and pictures by the number of conditions of each job, the untouched
    one included; denoiser calls too where the conditions run one by one. A run that the jobs of a case share in one
    process, such as the one that a heat map is taken from, is counted for each job, so that it is rather too much.

    Attributes:
        jobs: the jobs of the experiment.
        kept: those whose rows are in the folder, so that they will not be run.
        pictures: how many pictures will be made, those of runs that a condition asks for included.
        calls: how often the denoiser will be called; a call is of a whole batch.
        seconds: how long one worker will take, without loading the model.
        size: how many bytes the files of all jobs will have; None without a folder, where nothing is written.
        error: the first error of the job that was measured; None if all went well.
    """

    jobs: int
    kept: int
    pictures: int
    calls: int
    seconds: float
    size: int | None
    error: str | None = None

    @property
    def left(self) -> int:
        """The number of jobs that will be run."""
        return self.jobs - self.kept

    def __repr__(self) -> str:
        return "\n".join(as_text(self._table()))

    def _repr_html_(self) -> str:
        return as_html(self._table(), "What the experiment will take")

    def _table(self) -> list[list[str]]:
        rows = [
            ["jobs to run", f"{self.left:,} of {self.jobs:,}"],
            ["pictures", f"{self.pictures:,}"],
            ["denoiser calls", f"{self.calls:,}"],
            ["time of one worker", duration(self.seconds)],
        ]
        rows += [["all files", written(self.size)]] if self.size is not None else []
        return [*rows, ["error", self.error]] if self.error is not None else rows


def plan(*what: Any, **how: Any) -> Plan:
    """Run the first job of an experiment, and say what the experiment will take.

    The rows of that job are kept in the folder, if there is one, so that it is not run again.

    >>> import tempfile
    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> def brightness(run):
    ...     return run.latents.mean()
    >>> swap = {"blue": [sdprobe.ReplaceToken("red", with_="blue")]}
    >>> some = experiments.cases("a red circle", seeds=range(100))
    >>> plan(sdprobe.load(), some, swap, brightness, steps=2, folder=tempfile.mkdtemp())
    jobs to run         99 of 100
    pictures            198
    denoiser calls      198
    time of one worker  ... s
    all files           ... kB

    Of a ready experiment, the function comes first:

    >>> plan(experiments.knock_out, sdprobe.load(), some, "red", steps=2).jobs
    100

    Args:
        what: the arguments of `experiment`, or the function of an experiment and its arguments.
        how: likewise; of these, an executor is not used.

    Raises what the experiment raises.
    """
    ready = bool(what) and isinstance(what[0], FunctionType) and _takes_a_model(what[0])
    asked, given = (what[0], what[1:]) if ready else (experiment, what)
    try:
        asked(*given, **how | {"executor": Planning()})
    except Planned as found:
        jobs, sampler, folder = found.jobs, found.sampler, found.folder
    else:
        raise TypeError(
            f"{asked!r} is no function of an experiment: it did not call `experiment` with what it was given"
        )
    return _measured(jobs, sampler, None if folder is None else Path(folder).expanduser())


def _takes_a_model(function: FunctionType) -> bool:
    """Whether a function is an experiment, and not one without arguments that makes a model."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.name == "model" and first.default is first.empty


def _measured(jobs: Sequence[Job], sampler: Sampler, home: Path | None) -> Plan:
    """Run the first job that is left, and return what all will take."""
    held = {k: rows for k, job in enumerate(jobs) if home is not None and (rows := read_rows(home, job)) is not None}
    left = [job for k, job in enumerate(jobs) if k not in held]
    if not left:
        return Plan(len(jobs), len(jobs), 0, 0, 0.0, _size(jobs, jobs[0], held[0]))
    first, counted, begun = left[0], Counted(sampler), time.perf_counter()
    with counted.counting():
        rows = run_job(first if home is None else first.written(), counted)
    seconds = time.perf_counter() - begun
    error = next((row["error"] for row in rows if "error" in row), None)
    if home is not None:
        make_folders(home)
        write_rows(home, first, rows)
        left = left[1:] if error is None else left
    images, of_first = sum(map(_images, left)), _images(first)
    return Plan(
        len(jobs),
        len(jobs) - len(left),
        round(counted.pictures * images / of_first),
        round(sum(counted.calls_in(_images(job), of_first) for job in left)),
        seconds * images / of_first,
        None if home is None else _size(jobs, first, rows),
        error,
    )


def _size(jobs: Sequence[Job], first: Job, rows: list[Row]) -> int:
    return round(len(text_of(first, rows).encode()) * sum(map(_images, jobs)) / _images(first))


@dataclass
class Counted:
    """A sampler that counts what it is asked for.

    Attributes:
        runs: of each run, its pictures and the calls of the denoiser in it, those made by hooks included.
    """

    sampler: Sampler
    runs: list[tuple[int, int]] = field(default_factory=list)
    calls: int = 0

    @property
    def identity(self) -> str:
        return self.sampler.identity

    def read(self, case: Case) -> Prompt:
        return self.sampler.read(case)

    def sample(self, cases: Sequence[Case], hooks: Sequence[Hook], settings: SampleSettings) -> Run:
        before = self.calls
        try:
            return self.sampler.sample(cases, hooks, settings)
        finally:
            self.runs.append((len(cases), self.calls - before))

    @property
    def pictures(self) -> int:
        """The pictures of all runs."""
        return sum(pictures for pictures, _ in self.runs)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the denoiser's calls while this is open."""
        denoisers: Any = self.sampler.model.denoisers.values()  # type: ignore[attr-defined]
        listeners = [denoiser.register_forward_pre_hook(self._count) for denoiser in denoisers]
        try:
            yield
        finally:
            for listener in listeners:
                listener.remove()

    def calls_in(self, images: int, measured: int) -> float:
        """Return the calls in a job of some images, if this counted one of ``measured``.

        A run of several images has as many for any number of them; runs of one image are more for more images.
        """
        shared = sum(calls for pictures, calls in self.runs if pictures > 1)
        alone = sum(calls for pictures, calls in self.runs if pictures == 1)
        return shared + alone * images / measured

    def _count(self, *_: Any) -> None:
        self.calls += 1


def duration(seconds: float) -> str:
    """Return a duration as a table shows it.

    >>> duration(0.25), duration(75), duration(7300), duration(200_000)
    ('0.2 s', '1.2 min', '2.0 h', '2.3 days')
    """
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _images(job: Job) -> int:
    return 1 + len(job.names)
