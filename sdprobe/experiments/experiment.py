"""`experiment`: conditions × cases × measures, as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

from sdprobe.core.given_hooks import Given
from sdprobe.experiments.case import Case
from sdprobe.experiments.case import cases as all_cases
from sdprobe.experiments.case_runner import CaseRunner, Sampler, SampleSettings
from sdprobe.experiments.condition import Condition, Design, refuse_untouched
from sdprobe.experiments.job import BATCH, Job, in_jobs
from sdprobe.experiments.measures.measure import Measure, named
from sdprobe.experiments.result import Result
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.sweep import run_all

Conditions = Mapping[str, Given | Condition | Callable[[Case], Given]] | Design
Measures = Mapping[str, Measure] | Iterable[Measure] | Measure
Cases = str | Case | Iterable[str | Case]


class How(SampleSettings, total=False):
    """How an experiment is run: the arguments of `experiment` that every ready experiment takes too."""

    hooks: Given
    batch: int
    folder: str | Path | None
    executor: Any
    retries: int
    progress: bool


def experiment(
    model: Any,
    cases: Cases,
    conditions: Conditions,
    measures: Measures,
    *,
    hooks: Given = (),
    batch: int = BATCH,
    folder: str | Path | None = None,
    executor: Any = None,
    retries: int = 1,
    progress: bool = True,
    **settings: Unpack[SampleSettings],
) -> Result:
    """Try every case under every condition, and under none, and measure each picture.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> def mean_red(run):
    ...     return sum(run.images[0].resize((1, 1)).getpixel((0, 0))[:1]) / 255
    >>> result = experiments.experiment(
    ...     sdprobe.load(),
    ...     experiments.cases("a red circle", seeds=range(4)),
    ...     {"blue": [sdprobe.ReplaceToken("red", with_="blue")]},
    ...     mean_red,
    ...     steps=4,
    ...     progress=False,
    ... )
    >>> result
    Result(4 cases, 1 condition and the untouched one; measures: mean_red)
    >>> result.rows[1]["condition"], result.summary()["blue", "mean_red"].difference.high < 0
    ('blue', True)

    A case is run with the same seed under all conditions. Its conditions run in one batch with the untouched one, where
    their hooks can be limited to one image; what differs from a run by itself is the rounding of larger matrices.

    Args:
        model: a model of `sdprobe.load` or what it takes, a pipeline that is `attached`; or, for workers, a function
            without arguments that makes one of these.
        cases: cases, or prompts (`sdprobe.experiments.cases`).
        conditions: hooks by name; a function of the `Case` that returns hooks; a `Condition`; or a `Design`.
        measures: functions of a run, of a run and the untouched one, or of these and the case; by name, or several
            with names of their own.
        hooks: hooks in every condition, also the untouched one, for measures to read.
        batch: the largest number of images in one run. A job has as many conditions as fit beside the untouched one.
            With 1, each condition is a run of its own, as it always is for a model of videos, for a pipeline for more
            than a text that is `attached`, and under another prompt.
        folder: keep the rows of each job in a file there. Jobs whose file is there are not run again; those that failed
            are.
        executor: where jobs run: None for here, or any executor of `concurrent.futures`, or `Client.get_executor()` of
            Dask.
        retries: how often a job is tried again whose worker was lost.
        progress: show a progress bar.
        settings: steps, guidance_scale, scheduler, height and width, as in `sdprobe.sample`; of videos also frames and
            guidance_scale_2.

    Raises:
        ValueError: for conditions that cannot be told from the untouched one by name; for two cases that are the same;
            with a folder or an executor, for hooks that cannot be written as a name and a configuration; for a model
            or a measure that cannot be sent to the workers; for a folder of a newer version of sdprobe.
        TypeError: for a measure that is no function of one to three arguments; with a folder, for one of which nothing
            lasting can be said.
        RuntimeError: if the executor is broken for good, or a worker has another model. Call again with the same folder
            to go on.
    """
    if unknown := [name for name in settings if name not in SampleSettings.__annotations__]:
        raise TypeError(
            f"there is no setting {unknown[0]!r}; those of sdprobe.sample: {', '.join(SampleSettings.__annotations__)}"
        )
    if not (executor is None or isinstance(executor, Planning) or callable(getattr(executor, "submit", None))):
        raise TypeError(f"an executor has submit, as those of concurrent.futures do, not {executor!r:.80}")
    sampler = sampler_of(model)
    identified = folder is not None or not isinstance(executor, Planning | None)
    jobs, kind = planned_jobs(sampler, cases, conditions, measures, hooks, batch, settings, identified)
    if isinstance(executor, Planning):
        raise Planned(jobs, sampler, folder)
    rows = run_all(jobs, sampler, model, folder, executor, retries, progress)
    own = list(dict.fromkeys(job.case for job in jobs))
    return kind(_numbered(jobs, rows), own)


class Planning:
    """Given as the executor by `sdprobe.experiments.plan`: the jobs are made, and not run."""


class Planned(Exception):
    """Carries the jobs of an experiment past the function that would have used their result, to `plan`."""

    def __init__(self, jobs: list[Job], sampler: Sampler, folder: str | Path | None) -> None:
        self.jobs, self.sampler, self.folder = jobs, sampler, folder


def planned_jobs(
    sampler: Sampler,
    cases: Cases,
    conditions: Conditions,
    measures: Measures,
    hooks: Given = (),
    batch: int = BATCH,
    settings: SampleSettings | None = None,
    identified: bool = True,
) -> tuple[list[Job], type[Result]]:
    """Return the jobs of an experiment, case by case, and the class of its result.

    Where they need not be ``identified``, by a file or to a worker, the weights are not read for their hash.
    """
    said, jobs = settings or SampleSettings(), []
    by_name, identity = named(measures), sampler.identity if identified else ""
    each = 1 if _makes_videos(sampler) or getattr(sampler, "alone", False) else batch
    for case in all_cases(cases):
        made = conditions if isinstance(conditions, Design) else _of_case(conditions, case)
        names = made.conditions(case, CaseRunner(sampler, case, said)) if isinstance(made, Design) else made
        refuse_untouched(names)
        labels = {name: {"control": own.control, **own.labels} for name, own in names.items()}
        parts = in_jobs(list(names), each)
        jobs += [Job(identity, case, made, some, by_name, hooks, said, each == 1, labels) for some in parts]
    return jobs, conditions.result() if isinstance(conditions, Design) else Result


def _makes_videos(sampler: Sampler) -> bool:
    """Whether a model of videos is run: one video fills a batch, and several would take as many times its memory."""
    model = getattr(sampler, "model", None)  # a sampler of one's own may have none
    return model is not None and model.default_frames is not None


def _of_case(conditions: Mapping[str, Any], case: Case) -> dict[str, Condition]:
    if not isinstance(conditions, Mapping):
        raise TypeError(f"conditions are hooks by name, as in {{'blue': [hook]}}, or a design, not {conditions!r:.80}")
    found: dict[str, Condition] = {}
    for name, own in conditions.items():
        if str(name) in found:
            raise ValueError(f"two conditions are called {str(name)!r}")
        given = own(case) if callable(own) and not isinstance(own, Condition) else own
        found[str(name)] = given if isinstance(given, Condition) else Condition(given)
    return found


def _numbered(jobs: list[Job], rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of all jobs with the case that they are of; of the untouched condition once a case."""
    numbers: dict[Case, int] = {}
    found: dict[tuple[int, str, str], dict[str, Any]] = {}
    parts = _parts(row["measure"] for own in rows for row in own if "error" not in row)
    for job, own in zip(jobs, rows, strict=True):
        number = numbers.setdefault(job.case, len(numbers))
        for row in own:
            # A measure of several values that failed is missing in each value that it had elsewhere.
            for measure in parts.get(row["measure"], (row["measure"],)) if "error" in row else (row["measure"],):
                key = number, row["condition"], measure
                if key not in found or "error" in found[key]:  # of a job that was lost, and of another that was not
                    about = {"case": number, "prompt": job.case.prompt, "seed": job.case.seed}
                    found[key] = {**about, **row, "measure": measure}
    return list(found.values())


def _parts(measured: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return for each measure of several values the names of these.

    >>> _parts(["seen.red", "mean", "seen.blue", "seen.red"])
    {'seen': ('seen.red', 'seen.blue')}
    """
    found: dict[str, dict[str, None]] = {}
    for name in measured:
        if "." in name:
            found.setdefault(name.partition(".")[0], {})[name] = None
    return {whole: tuple(names) for whole, names in found.items()}
