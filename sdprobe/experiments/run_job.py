"""`run_job`: run the conditions of a job, measure them, and return the rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from sdprobe.core.given_hooks import Given, each
from sdprobe.core.run import Run
from sdprobe.experiments.case_runner import CaseRunner, Sampler, can_share
from sdprobe.experiments.condition import UNTOUCHED, Condition, Design
from sdprobe.experiments.job import Job
from sdprobe.experiments.measures.measure import measured

Row = dict[str, Any]
"""A row of the table: one measure of one condition of one case."""


def run_job(job: Job, sampler: Sampler, runner: CaseRunner | None = None) -> list[Row]:
    """Run the untouched condition and those of the job, measure all, and return a row for each condition and measure.

    An error, of a hook or of a measure, is the value's reason to be missing, in the row's ``"error"``; other conditions
    and measures go on. The rows hold what JSON holds. Jobs of one case may share a ``runner``, and with it the further
    runs that their conditions ask for.
    """
    try:
        return [_plain(row) for row in _rows(job, runner or CaseRunner(sampler, job.case, job.settings))]
    except Exception as error:
        return rows_of_failure(job, said(error))


def rows_of_failure(job: Job, why: str) -> list[Row]:
    """Return the rows of a job of which nothing is known but why it has no values."""
    labels = {name: job.labels.get(name, {"control": False}) for name in (UNTOUCHED, *job.names)}
    return [
        {"condition": name, **own, "measure": measure, "value": None, "error": why}
        for name, own in labels.items()
        for measure in job.measures
    ]


def _plain(row: Row) -> Row:
    """Return a row with its labels as plain values. Raises TypeError for a label that is no text or number."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    for name, value in plain.items():
        if not (value is None or isinstance(value, (str, bool, int, float))):
            raise TypeError(f"the label {name!r} is {value!r:.80}: labels are texts and numbers")
    return plain


def _joined(*given: Given) -> Given:
    """Return the hooks of several as one; those that have names of one's own keep them."""
    if not any(isinstance(own, Mapping) for own in given):
        return [hook for own in given for hook in each(own)]
    found: dict[str, Any] = {}
    for own in given:
        named = own if isinstance(own, Mapping) else {f"hook {len(found) + k}": one for k, one in enumerate(each(own))}
        if twice := [name for name in named if name in found]:
            raise ValueError(f"two hooks are called {twice[0]!r}, one of the condition and one of all conditions")
        found |= named
    return found


def _rows(job: Job, runner: CaseRunner) -> Iterator[Row]:
    own, failed = job.conditions, dict[str, str]()
    conditions = {UNTOUCHED: Condition(())}
    try:
        made = own.conditions(job.case, runner) if isinstance(own, Design) else own
        conditions |= {name: made[name] for name in job.names}
    except Exception as error:
        yield from rows_of_failure(job, said(error))
        return
    stacks = {}
    for name, condition in conditions.items():
        try:
            hooks = condition.hooks() if callable(condition.hooks) else condition.hooks
            stacks[name] = _joined(job.hooks, hooks)
        except Exception as error:
            failed.setdefault(name, said(error))
    prompts = {name: own.prompt for name, own in conditions.items() if own.prompt is not None}
    runs, whys = _run_all(runner, stacks, prompts, job.alone)
    failed |= whys
    of_untouched: dict[int, dict[str, tuple[Any, str | None]]] = {}
    for name, condition in conditions.items():
        labels = {"condition": name, "control": condition.control, **condition.labels}
        if name in failed:
            yield from ({**labels, "measure": own, "value": None, "error": failed[name]} for own in job.measures)
            continue
        run, untouched = runs[name]
        unchanged = torch.equal(run.latents, untouched.latents)  # type: ignore[arg-type]
        # The untouched run of the same batch: where nothing was changed, the difference is nothing.
        if id(untouched) not in of_untouched:
            of_untouched[id(untouched)] = dict(_values(job, untouched, untouched))
        plain = of_untouched[id(untouched)]
        own_values = plain if run is untouched else dict(_values(job, run, untouched))
        for measure, (value, why) in own_values.items():
            row = {**labels, "measure": measure, "value": value, "untouched": plain.get(measure, (None, None))[0]}
            yield {**row, "unchanged": unchanged} | ({"error": why} if why else {})


def _run_all(
    runner: CaseRunner, stacks: Mapping[str, Any], prompts: Mapping[str, str], alone: bool
) -> tuple[dict[str, tuple[Run, Run]], dict[str, str]]:
    """Run each stack; return with each run the untouched one of as many images, and why others have no run.

    Those with another prompt are run by themselves.
    """
    together = [name for name in stacks if not alone and name not in prompts and can_share(stacks[name])]
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
                plain = runner.once("untouched, alone", lambda: runner.run(stacks[UNTOUCHED]))
                changes = {"prompt": prompts[name]} if name in prompts else {}
                runs[name] = (plain if name == UNTOUCHED else runner.run(stacks[name], **changes)), plain
            except Exception as error:
                whys[name] = said(error)
    return runs, whys


def _values(job: Job, run: Run, untouched: Run) -> Iterator[tuple[str, tuple[float | bool | None, str | None]]]:
    """Measure a run; yield for each measure, or part of one, the value, or None and why there is none."""
    for name, measure in job.measures.items():
        try:
            found = measured(measure, run, untouched, job.case)
        except Exception as error:
            yield name, (None, said(error))
            continue
        for part, value in found.items():
            yield f"{name}.{part}" if part else name, (value, None)


def said(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
