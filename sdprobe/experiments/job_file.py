"""`write_rows`, `read_rows`: the rows of a job in a file of its own, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdprobe.core.written_values import count, flag, line, listed, mapping, text
from sdprobe.experiments.condition import NotInThisCase
from sdprobe.experiments.job import SCHEMA, Job
from sdprobe.experiments.run_job import Row
from sdprobe.files.atomic_file import write_atomically

MOST_ROWS = 1_000_000


def path_of(folder: Path, job: Job) -> Path:
    """Return the path of a job's file."""
    return folder / f"{job.id}.json"


def text_of(job: Job, rows: list[Row]) -> str:
    """Return the content of a job's file: the same for the same results, whoever writes it, wherever and whenever."""
    own = json.loads(json.dumps(job.description, sort_keys=True))
    return json.dumps({"schema": SCHEMA, "job": own, "rows": rows}, indent=1, ensure_ascii=False) + "\n"


def write_rows(folder: Path, job: Job, rows: list[Row]) -> None:
    """Write the file of a job, unless it is there with this content."""
    path, content = path_of(folder, job), text_of(job, rows).encode()
    if not (path.is_file() and path.read_bytes() == content):
        with write_atomically(path) as beside:
            beside.write_bytes(content)


def read_rows(folder: Path, job: Job) -> list[Row] | None:
    """Return the rows of a job from its file; None where the job is to be run, also again.

    It is run again where the file is cut short, of an older schema or of another job, and where a row has an error
    that may not come again (`NotInThisCase` will).

    Raises ValueError for the file of a newer version of sdprobe.
    """
    path = path_of(folder, job)
    try:
        held = mapping(json.loads(path.read_bytes()))
        schema = count(held.get("schema"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # cut short, or no file of ours
        return None
    if schema > SCHEMA:
        raise ValueError(
            f"{str(path)!r} is of schema {schema}, written by a newer version of sdprobe; this version knows schema "
            f"{SCHEMA}: update sdprobe, or give another folder"
        )
    try:
        rows = [_row(own) for own in listed(held.get("rows"), MOST_ROWS)]
    except ValueError:
        return None
    same = schema == SCHEMA and _sorted(held.get("job")) == _sorted(job.description)
    return rows if same and rows and not any(map(_may_pass, rows)) else None


def _may_pass(row: Row) -> bool:
    """Whether a row has an error that another try may not have."""
    return "error" in row and not str(row["error"]).startswith(f"{NotInThisCase.__name__}: ")


def _row(given: Any) -> Row:
    row = mapping(given)
    for name, own in row.items():
        line(name)
        if not (own is None or isinstance(own, (str, bool, int, float))):
            raise ValueError(f"the column {name!r} holds neither a text nor a number")
    text(row.get("condition"))
    text(row.get("measure"))
    flag(row.get("control"))
    if "value" not in row or isinstance(row["value"], str) or isinstance(row.get("untouched"), str):
        raise ValueError("a row without a value")
    if "unchanged" in row:
        flag(row["unchanged"])
    return row


def _sorted(description: Any) -> str:
    return json.dumps(description, sort_keys=True)
