"""What is submitted ends once, whatever is lost meanwhile."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from threading import Event

import pytest

from sdprobe.experiments.submitted import ExecutorBroken, Lost, submitted


class Scripted(ThreadPoolExecutor):
    """An executor of which it is said what each submission comes to: None is done; an error is that of the future."""

    def __init__(self, *ends):
        super().__init__(1)
        self.ends, self.attempts = list(ends), []

    def submit(self, work, *args):
        end = self.ends.pop(0) if self.ends else None
        self.attempts.append(args)
        if isinstance(end, type):
            raise end("no more")
        if end is None:
            return super().submit(work, *args)
        future = Future()
        future.cancel() if end == "cancelled" else future.set_exception(end)
        return future


def twice(task, attempt):
    return 2 * task


def test_each_attempt_is_another_submission():
    with Scripted(OSError("lost"), None, "cancelled") as executor:
        assert sorted(submitted(executor, twice, {"a": 1, "b": 2, "c": 3}, retries=1)) == [("a", 2), ("b", 4), ("c", 6)]
    assert sorted(executor.attempts) == [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]


def test_lost_too_often():
    with Scripted(OSError("lost"), OSError("lost again")) as executor:
        assert list(submitted(executor, twice, {"a": 1}, retries=1)) == [("a", Lost(2, "OSError: lost again"))]


def test_what_is_done_is_given_before_it_is_said_that_the_executor_is_broken():
    found = []
    ends = None, BrokenExecutor("lost"), BrokenExecutor("lost"), BrokenExecutor
    with Scripted(*ends) as executor, pytest.raises(ExecutorBroken, match="BrokenExecutor: no more"):
        iter_into(found, submitted(executor, twice, {"a": 1, "b": 2, "c": 3}, retries=5))
    assert found == [("a", 2)]


def iter_into(found, given):
    for own in given:
        found.append(own)
    return ()


def test_broken_while_it_is_given_tasks():
    found = []
    with Scripted(None, BrokenExecutor) as executor, pytest.raises(ExecutorBroken):
        iter_into(found, submitted(executor, twice, {"a": 1, "b": 2}, retries=0))
    assert found == [("a", 2)]


def test_where_it_is_left_what_has_not_begun_is_cancelled():
    begun, go, ran = Event(), Event(), []

    def work(task, attempt):
        ran.append(task)
        if task == 1:
            begun.set()
            go.wait(30)
        return task

    with ThreadPoolExecutor(1) as executor:
        given = submitted(executor, work, dict(enumerate(range(9))), retries=0)
        assert next(given) == (0, 0)
        assert begun.wait(30)
        given.close()
        go.set()
    assert ran == [0, 1]
