"""Runs on one network take turns, through whichever pipelines and models they reach it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn


class RunUnderWay(RuntimeError):
    """A run of the model is under way in this very thread, which a hook of it has asked for another."""


_locks: WeakKeyDictionary[nn.Module, _Lock] = WeakKeyDictionary()
_waiting: dict[int, _Lock] = {}
_looking = threading.Lock()


@contextmanager
def lock(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Wait for all of these to be free, and keep them from others meanwhile.

    Raises RuntimeError where the wait would never end: where this very thread keeps one of them already, or where
    whoever keeps it waits, in the end, for this thread.
    """
    with ExitStack() as taken:
        for part in sorted(networks, key=id):  # always in one order, or two runs could wait for each other
            taken.enter_context(_locks.setdefault(getattr(part, "_orig_mod", part), _Lock()).taken())
        yield


class _Lock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        me = threading.get_ident()
        with _looking:
            self._refuse(me)
            _waiting[me] = self
        try:
            with self._lock:
                self._owner = me
                del _waiting[me]
                try:
                    yield
                finally:
                    self._owner = None
        finally:
            _waiting.pop(me, None)  # where the wait was interrupted

    def _refuse(self, me: int) -> None:
        if self._owner == me:
            raise RunUnderWay(
                "a run of this model is under way in this very thread: a hook cannot start another run of the model "
                "it is attached to. Run it before or after, or on a second model"
            )
        ahead: _Lock | None = self
        while ahead is not None and ahead._owner is not None:
            if ahead._owner == me:
                raise RuntimeError(
                    "a run of this model is under way in another thread, and has itself started a run that waits for "
                    "this thread's: the two would wait for each other forever. Run one before the other"
                )
            ahead = _waiting.get(ahead._owner)
