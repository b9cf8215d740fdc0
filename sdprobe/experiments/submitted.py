"""`submitted`: what tasks return at an executor, as each ends; tasks whose worker was lost are submitted again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sdprobe.experiments.run_job import said

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")
Done = TypeVar("Done")


class ExecutorBroken(Exception):
    """An executor takes nothing any more."""


@dataclass(frozen=True)
class Lost:
    """A task whose worker was lost more often than it may be."""

    times: int
    why: str


def submitted(
    executor: Executor, work: Callable[[T, int], Done], tasks: Mapping[Key, T], retries: int
) -> Iterator[tuple[Key, Done | Lost]]:
    """Submit tasks, and yield what each returns as it ends.

    ``work`` returns; so an exception is the executor's: the worker was lost. The task is then submitted again. Where
    this iterator is closed, or an error leaves it, tasks that have not begun are cancelled.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as executor:
    ...     sorted(submitted(executor, lambda task, attempt: task**2, {"a": 2, "b": 3}, retries=1))
    [('a', 4), ('b', 9)]

    Args:
        executor: anything with the ``submit`` of `concurrent.futures.Executor`.
        work: a function of a task, and of how often it was submitted before.
        tasks: the tasks, each by a key of its own.
        retries: how often a task is submitted again.

    Raises ExecutorBroken if the executor takes nothing any more, after what it has done was given.
    """
    ended: SimpleQueue[tuple[Key, Future[Done]]] = SimpleQueue()
    waiting: dict[Key, Future[Done]] = {}
    attempts = dict.fromkeys(tasks, 0)
    broken: BaseException | None = None

    def submit(key: Key) -> None:
        future: Future[Done] = executor.submit(work, tasks[key], attempts[key])
        attempts[key] += 1
        waiting[key] = future
        future.add_done_callback(lambda ended_one: ended.put((key, ended_one)))

    try:
        for key in tasks:
            try:
                submit(key)
            except BrokenExecutor as error:
                broken = error
                break
        while waiting:
            key, future = _next(ended)
            del waiting[key]
            why = _loss(future)
            if why is None:
                yield key, future.result()
            elif broken is None:
                try:
                    if attempts[key] <= retries:
                        submit(key)
                        continue
                    if isinstance(why, BrokenExecutor):  # all tasks say so, whosever worker was lost
                        executor.submit(_nothing)
                except BrokenExecutor as error:
                    broken = error
                    continue
                yield key, Lost(attempts[key], said(why))
        if broken is not None:
            raise ExecutorBroken(said(broken)) from broken
    finally:
        for future in waiting.values():
            future.cancel()


def _next(ended: SimpleQueue[Any]) -> Any:
    while True:
        try:
            return ended.get(timeout=1)  # without an end, it could not be interrupted everywhere
        except Empty:
            continue


def _loss(future: Future[Any]) -> BaseException | None:
    if future.cancelled():
        return CancelledError("it was cancelled")
    return future.exception()


def _nothing() -> None:
    """Do nothing: a submission that tells whether an executor takes any."""
