"""A lock per network: runs on one network take turns, also through different pipelines and models."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn


class RunUnderWay(RuntimeError):
    """A run of the model is in progress in this thread, and one of its hooks asked for another run."""


_locks: WeakKeyDictionary[nn.Module, _Lock] = WeakKeyDictionary()
_waiting: dict[int, _Lock] = {}
_looking = threading.Lock()


@contextmanager
def lock(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Wait until all of these networks are free, and lock them.

    Raises RuntimeError if the wait would never end: if this thread holds one of the locks already, or if the thread
    that holds it waits, directly or indirectly, for this thread.
    """
    with ExitStack() as taken:
        for part in sorted(networks, key=id):  # always in the same order, so that two runs cannot wait for each other
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
            _waiting.pop(me, None)  # if the wait was interrupted

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
