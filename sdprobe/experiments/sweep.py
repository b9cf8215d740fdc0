"""`run_all`: run jobs here or by an executor, keep the rows of each in a file, and go on where it was stopped."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sdprobe.experiments.case_runner import CaseRunner, Sampler
from sdprobe.experiments.job import Job
from sdprobe.experiments.job_file import read_rows, write_rows
from sdprobe.experiments.named_model import (
    Making,
    ModelRefused,
    live_here,
    name_model,
    refuse_unreachable,
    sampler_in_worker,
)
from sdprobe.experiments.run_job import Row, rows_of_failure, run_job, said
from sdprobe.experiments.sampler import is_function
from sdprobe.experiments.submitted import ExecutorBroken, Lost, submitted
from sdprobe.files.atomic_file import make_folders

Ended = Generator[tuple[int, list[Row]], None, None]


def run_all(
    jobs: Sequence[Job],
    sampler: Sampler,
    model: Any,
    folder: str | Path | None,
    executor: Any,
    retries: int,
    progress: bool,
) -> list[list[Row]]:
    """Return the rows of each job, in the order of the jobs.

    Jobs whose file is whole and holds no error are not run; the rows of the others are written as each is done.

    Args:
        jobs: the jobs.
        sampler: the live model.
        model: what the experiment was given as a model; a function is called by workers too.
        folder: where the files are; None for none.
        executor: None for this process, or anything with the ``submit`` of `concurrent.futures.Executor`.
        retries: how often a job is submitted again whose worker was lost; one that is lost more often is an error.
        progress: show a bar, over jobs.

    Raises:
        ValueError: for a file of a newer version; for hooks that cannot be written, and for a model or a measure that
            cannot be sent to the workers of this executor.
        RuntimeError: if the executor is broken, or a worker has another model; jobs that are done are in the folder.
    """
    home = None if folder is None else _made_folder(folder)
    # All names first: a measure may change what is told of it, such as a list that it keeps, as it is called.
    rows = [None if home is None else read_rows(home, job) for job in jobs]
    left = [k for k, own in enumerate(rows) if own is None]
    sent = {k: jobs[k] for k in left}
    with tqdm(total=len(jobs), initial=len(jobs) - len(left), disable=not progress, unit="job") as bar:
        here = _here(sent, sampler, written=home is not None)
        done = here if executor is None else _by(executor, sent, sampler, model, home, retries)
        try:
            with closing(done):
                for k, own in done:
                    rows[k] = own
                    if home is not None:
                        write_rows(home, jobs[k], own)
                    bar.update()
        except ExecutorBroken as error:
            raise RuntimeError(_told(error, sum(own is not None for own in rows), len(rows), home)) from error.__cause__
    return [own for own in rows if own is not None]


@dataclass(frozen=True)
class Task:
    """What is sent to a worker: a job, and how to get the model."""

    job: Job
    model: Making | None
    identity: str
    key: str
    folder: str | None


@dataclass(frozen=True)
class Done:
    """What a worker returns: rows, or why it cannot do any job."""

    rows: list[Row] = field(default_factory=list)
    refused: str | None = None


def work(task: Task, attempt: int) -> Done:
    """Do a job in a worker, and write its file where the folder is found.

    Args:
        task: the task.
        attempt: which time it is submitted; to an executor that remembers what it has done, each is another one.
    """
    try:
        sampler = sampler_in_worker(task.key, task.model, task.identity)
    except ModelRefused as error:
        return Done(refused=str(error))
    rows = run_job(task.job, sampler)
    if task.folder is not None and Path(task.folder).is_dir():
        with suppress(OSError):  # the main process writes it too, and says what is wrong
            write_rows(Path(task.folder), task.job, rows)
    return Done(rows)


def _here(jobs: dict[int, Job], sampler: Sampler, written: bool) -> Ended:
    runner: CaseRunner | None = None
    for k, job in jobs.items():
        if runner is None or runner.case != job.case:
            runner = CaseRunner(sampler, job.case, job.settings)
        yield k, run_job(job.written() if written else job, sampler, runner)  # what is kept is the same whoever runs it


def _by(
    executor: Executor, jobs: dict[int, Job], sampler: Sampler, model: Any, home: Path | None, retries: int
) -> Ended:
    if not jobs:
        return
    how = model if is_function(model) else name_model(sampler)
    refuse_unreachable(executor, how, sampler)
    folder = None if home is None else str(home.resolve())
    with live_here(sampler) as key:
        tasks = {k: Task(job.written(), how, job.model, key, folder) for k, job in jobs.items()}
        if isinstance(executor, ProcessPoolExecutor):
            _refuse_unpicklable(next(iter(tasks.values())))
        for k, done in submitted(executor, work, tasks, retries):
            if isinstance(done, Lost):
                yield k, rows_of_failure(jobs[k], f"its worker was lost {done.times} times: {done.why}")
            elif done.refused is not None:
                raise RuntimeError(f"no job of this sweep can be done: {done.refused}")
            else:
                yield k, done.rows


def _made_folder(folder: str | Path) -> Path:
    home = Path(folder).expanduser()
    make_folders(home)
    return home


def _refuse_unpicklable(task: Task) -> None:
    """Raise ValueError for what a process pool cannot send to its workers, by its name."""
    job = task.job
    own = job.conditions if isinstance(job.conditions, Mapping) else {"the design": job.conditions}
    parts: dict[str, Any] = {f"the measure {name!r}": measure for name, measure in job.measures.items()}
    parts |= {f"the condition {name!r}": condition for name, condition in own.items()}
    for name, part in {**parts, "the function that makes the model": task.model, "the job": task}.items():
        try:
            pickle.dumps(part)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be sent to another process ({said(error)}): use a function of a module, or a frozen "
                f"dataclass, and no lambda"
            ) from error


def _told(error: ExecutorBroken, done: int, jobs: int, home: Path | None) -> str:
    kept = "lost, because there is no folder: give one" if home is None else f"in {str(home)!r}: give the same folder"
    return f"the executor is broken ({error}). {done} of {jobs} jobs are done, and {kept} and a new executor to go on"
