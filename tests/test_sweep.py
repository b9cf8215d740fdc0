"""A sweep: the same table and the same files whoever runs its jobs, and a second start does what is left."""

from __future__ import annotations

import json
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from functools import partial

import pytest

import tests.swept
from sdprobe import experiments
from tests.swept import FailsWithout, brightness, files, seen
from tests.time_limit import at_most

sweep = partial(tests.swept.sweep, conditions={"blank": [("scale-prompt", {"factor": 0.0})]})


@pytest.fixture(autouse=True)
def _no_endless_wait():
    with at_most(60):
        yield


@pytest.fixture(scope="module")
def whole(embedded, tmp_path_factory):
    """The sweep of three cases, uninterrupted, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "made" / "here"
    return sweep(3, embedded, measures=brightness, folder=folder), folder


def test_a_folder_changes_no_row(embedded, whole):
    result, folder = whole
    assert result.rows == sweep(3, embedded, measures=brightness).rows
    assert len(files(folder)) == 3
    held = [json.loads(content) for content in files(folder).values()]
    assert sorted(own["job"]["case"]["fields"]["seed"] for own in held) == [0, 1, 2]


def test_a_second_start_runs_what_is_left(embedded, whole, tmp_path, capfd):
    result, folder = whole
    sweep(1, embedded, measures=brightness, folder=tmp_path)
    first = seen(tmp_path)
    resumed = sweep(3, embedded, measures=brightness, folder=tmp_path, progress=True)
    assert "1/3" in capfd.readouterr().err, "what is skipped is counted at once"
    assert resumed.rows == result.rows
    assert files(tmp_path) == files(folder)
    assert first.items() <= seen(tmp_path).items(), "the first was not run again"
    before = seen(tmp_path)
    assert sweep(3, embedded, measures=brightness, folder=tmp_path).rows == result.rows
    assert seen(tmp_path) == before


def test_threads(embedded, whole, tmp_path):
    result, folder = whole
    with ThreadPoolExecutor(2) as executor:
        found = sweep(3, embedded, measures=brightness, folder=tmp_path, executor=executor)
        assert found.rows == result.rows
        assert sweep(3, embedded, measures=brightness, executor=executor).rows == result.rows
    assert files(tmp_path) == files(folder)


def test_an_error_is_a_row_and_is_tried_again(embedded, tmp_path):
    own = {"measures": {"ok": brightness, "fails": FailsWithout(str(tmp_path / "flag"))}, "folder": tmp_path / "kept"}
    result = sweep(3, embedded, **own)
    assert {(row["seed"], row["measure"], row["error"]) for row in result.failed} == {
        (1, "fails", "RuntimeError: no file for seed 1")
    }
    assert len(result.rows) == 3 * 2 * 2
    before = seen(tmp_path / "kept")
    (tmp_path / "flag").touch()
    again = sweep(3, embedded, **own)
    assert not again.failed
    assert len(set(before.items()) & set(seen(tmp_path / "kept").items())) == 2, "only the one with an error"
    assert (
        files(tmp_path / "kept")
        == (sweep(3, embedded, **own | {"folder": tmp_path / "new"}), files(tmp_path / "new"))[1]
    )


@pytest.mark.slow
def test_files_that_cannot_be_used_are_made_again(embedded, whole, tmp_path):
    result, folder = whole
    good = files(folder)
    (one, content), *_ = good.items()
    held = json.loads(content)
    other = [
        content[: len(content) // 2],
        b"",
        b"[" * 100_000,
        json.dumps(held | {"schema": 0}).encode(),
        json.dumps(held | {"job": held["job"] | {"names": ["another"]}}).encode(),
        json.dumps(held | {"rows": []}).encode(),
        json.dumps(held | {"rows": [{**held["rows"][0], "value": "high"}]}).encode(),
        json.dumps(held | {"rows": [{**held["rows"][0], "control": None}]}).encode(),
        json.dumps(held | {"rows": [{**held["rows"][0], "condition": ["a"]}]}).encode(),
    ]
    for name, known in good.items():
        (tmp_path / name).write_bytes(known)
    for bad in other:
        (tmp_path / one).write_bytes(bad)
        assert sweep(3, embedded, measures=brightness, folder=tmp_path).rows == result.rows
        assert files(tmp_path) == good
    (tmp_path / one).write_bytes(json.dumps(held | {"schema": 7}).encode())
    with pytest.raises(
        ValueError, match=r"schema 7, written by a newer version of sdprobe; this version knows schema 1"
    ):
        sweep(3, embedded, measures=brightness, folder=tmp_path)


class LosesWorkers(ThreadPoolExecutor):
    """An executor whose first submissions are lost."""

    def __init__(self, lost: int, error: Exception, broken_after: float = float("inf")) -> None:
        super().__init__(1)
        self.lost, self.error, self.broken_after, self.submitted = lost, error, broken_after, 0

    def submit(self, *args):
        self.submitted += 1
        if self.submitted > self.broken_after:
            raise BrokenExecutor("it takes nothing any more")
        if self.submitted > self.lost:
            return super().submit(*args)
        future = Future()
        future.set_exception(self.error)
        return future


def test_a_lost_worker_costs_a_retry(embedded, whole, tmp_path):
    with LosesWorkers(3, OSError("the worker was lost")) as executor:
        found = sweep(3, embedded, measures=brightness, executor=executor)
        assert (found.rows, executor.submitted) == (whole[0].rows, 6)
    with LosesWorkers(3, BrokenExecutor("lost")) as executor:
        found = sweep(3, embedded, measures=brightness, executor=executor, retries=0, folder=tmp_path)
    assert {row["error"] for row in found.failed} == {"its worker was lost 1 times: BrokenExecutor: lost"}
    assert len(found.failed) == len(found.rows) == 6
    assert sweep(3, embedded, measures=brightness, folder=tmp_path).rows == whole[0].rows


def test_a_broken_executor_stops_the_sweep(embedded, whole, tmp_path):
    with LosesWorkers(1, BrokenExecutor("lost"), broken_after=3) as executor:
        with pytest.raises(RuntimeError, match=r"2 of 3 jobs are done, and in '.*': give the same folder and a new ex"):
            sweep(3, embedded, measures=brightness, executor=executor, folder=tmp_path)
        with pytest.raises(RuntimeError, match=r"0 of 3 jobs are done, and lost, because there is no folder: give one"):
            sweep(3, embedded, measures=brightness, executor=executor)
    assert len(files(tmp_path)) == 2
    assert sweep(3, embedded, measures=brightness, folder=tmp_path).rows == whole[0].rows


class Interrupted(ThreadPoolExecutor):
    """An executor whose user presses Ctrl-C as the fifth job is submitted."""

    left = 4

    def submit(self, *given, **more):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(*given, **more)


def test_an_interrupt_cancels_what_has_not_begun(embedded, tmp_path):
    with Interrupted(1) as executor, pytest.raises(KeyboardInterrupt):
        sweep(9, embedded, measures=brightness, executor=executor, folder=tmp_path)
    assert len(files(tmp_path)) < 4


def test_the_untouched_condition_alone_and_many_conditions(embedded, tmp_path):
    assert [row["condition"] for row in sweep(1, embedded, conditions={}, folder=tmp_path).rows] == ["untouched"] * 2
    tests.swept.sweep(1, embedded, batch=2, folder=tmp_path)
    assert len(files(tmp_path)) == 3, "a job for each condition"


def test_what_a_case_does_not_allow_is_not_tried_again(embedded, tmp_path):
    """The prompt has too few words for the control, and no second start will find more."""
    how = {"measures": brightness, "folder": tmp_path, "steps": 2, "progress": False}
    first = experiments.knock_out(embedded, "a red circle", {"both": ["red", "circle"]}, **how)
    assert "NotInThisCase: a control hides 2 other words" in first.failed[0]["error"]
    assert (
        experiments.plan(experiments.knock_out, embedded, "a red circle", {"both": ["red", "circle"]}, **how).left == 0
    )
