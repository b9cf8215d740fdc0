"""Runs on one network take turns, through whichever pipelines and models they reach it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_turns: WeakKeyDictionary[nn.Module, _Turn] = WeakKeyDictionary()


@contextmanager
def turn(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Wait for all of these to be free, and keep them from others meanwhile.

    Raises RuntimeError where this very thread keeps one of them already: it would wait for itself.
    """
    with ExitStack() as taken:
        for part in sorted(networks, key=id):  # always in one order, or two runs could wait for each other
            taken.enter_context(_turns.setdefault(getattr(part, "_orig_mod", part), _Turn()).taken())
        yield


class _Turn:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self._owner == threading.get_ident():
            raise RuntimeError(
                "a run of this model is under way in this very thread: a hook cannot start another run of the model "
                "it is attached to. Run it before or after, or on a second model"
            )
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None
