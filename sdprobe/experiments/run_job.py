"""`run_job`: run the conditions of a job, measure them, and return the rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sdprobe.core.given_hooks import each
from sdprobe.core.run import Run
from sdprobe.experiments.case_runner import CaseRunner, Sampler, can_share
from sdprobe.experiments.condition import UNTOUCHED, Condition, Design
from sdprobe.experiments.job import Job
from sdprobe.experiments.measures.measure import measured

Row = dict[str, Any]
"""A row of the table: one measure of one condition of one case."""


def run_job(job: Job, sampler: Sampler) -> list[Row]:
    """Run the untouched condition and those of the job, measure all, and return a row for each condition and measure.

    An error, of a hook or of a measure, is the value's reason to be missing, in the row's ``"error"``; other conditions
    and measures go on.
    """
    return list(_rows(job, CaseRunner(sampler, job.case, job.settings)))


def _rows(job: Job, runner: CaseRunner) -> Iterator[Row]:
    own, failed = job.conditions, dict[str, str]()
    conditions = {UNTOUCHED: Condition(())}
    try:
        made = own.conditions(job.case, runner) if isinstance(own, Design) else own
        conditions |= {name: made[name] for name in job.names}
    except Exception as error:
        failed = dict.fromkeys(job.names, said(error))
        conditions |= dict.fromkeys(job.names, Condition(()))
    stacks = {}
    for name, condition in conditions.items():
        try:
            hooks = condition.hooks() if callable(condition.hooks) else condition.hooks
            stacks[name] = [*each(job.hooks), *each(hooks)]
        except Exception as error:
            failed.setdefault(name, said(error))
    runs, whys = _run_all(runner, {name: own for name, own in stacks.items() if name not in failed})
    failed |= whys
    for name, condition in conditions.items():
        labels = {"condition": name, "control": condition.control, **condition.labels}
        if name in failed:
            yield from ({**labels, "measure": own, "value": None, "error": failed[name]} for own in job.measures)
            continue
        run, untouched = runs[name]
        unchanged = torch.equal(run.latents, untouched.latents)  # type: ignore[arg-type]
        for measure, value, why in _measured(job, run, untouched):
            row = {**labels, "measure": measure, "value": value, "unchanged": unchanged}
            yield row | ({"error": why} if why else {})


def _run_all(runner: CaseRunner, stacks: Mapping[str, Any]) -> tuple[dict[str, tuple[Run, Run]], dict[str, str]]:
    """Run each stack; return with each run the untouched one of as many images, and why others have no run."""
    together = [name for name in stacks if can_share(stacks[name])]
    runs, whys = dict[str, tuple[Run, Run]](), dict[str, str]()
    if UNTOUCHED in together:
        try:
            found = runner.run_together([stacks[name] for name in together])
            plain = found[together.index(UNTOUCHED)]
            runs |= {name: (run, plain) for name, run in zip(together, found, strict=True)}
        except Exception:  # one of them fails, and alone it says which
            runs = {}
    for name in stacks:
        if name not in runs:
            try:
                alone = runner.once("untouched alone", lambda: runner.run(stacks[UNTOUCHED]))
                runs[name] = (alone if name == UNTOUCHED else runner.run(stacks[name])), alone
            except Exception as error:
                whys[name] = said(error)
    return runs, whys


def _measured(job: Job, run: Run, untouched: Run) -> Iterator[tuple[str, float | bool | None, str | None]]:
    for name, measure in job.measures.items():
        try:
            found = measured(measure, run, untouched, job.case)
        except Exception as error:
            yield name, None, said(error)
            continue
        for part, value in found.items():
            yield f"{name}.{part}" if part else name, value, None


def said(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
