"""`costs_of_methods`: how long a method of attribution takes, and how much memory, beside a run without hooks."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sdprobe.attributions.joined_hooks import joined_hooks
from sdprobe.core.attribution import Attribution
from sdprobe.experiments.case_runner import CaseRunner

REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What one heat map of one picture costs.

    Attributes:
        time: the time of a run with the method's hooks and of one map, divided by that of a run without hooks: the
            median of runs in turn.
        memory: how many bytes of tensors there are at most, more than in the run without hooks.
    """

    time: float
    memory: int


class TensorBytes(TorchDispatchMode):
    """While this is open, count the bytes of the tensors that are made and still there.

    >>> with TensorBytes() as counted:
    ...     kept = torch.zeros(1000)
    ...     for _ in range(3):
    ...         gone = kept + 1
    >>> 8000 <= counted.most <= 12000
    True

    Attributes:
        most: the most that there were at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in tree_iter(made):
            if isinstance(x, Tensor) and x.layout == torch.strided:
                self._count(x.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def costs_of_methods(
    methods: Mapping[str, Attribution], asked: Sequence[tuple[str, CaseRunner]], repeats: int = REPEATS
) -> dict[str, Cost]:
    """Return the cost of each method.

    Args:
        methods: the methods by name.
        asked: the words whose maps are made, each with the case that has it.
        repeats: how often each is run, in turn with the others; a first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    most: dict[str, int] = {}
    for word, runner in asked:
        for turn in range(repeats + 1):
            plain = _seconds(runner, None, word)
            for name, method in methods.items():
                taken = _seconds(runner, method, word)
                if turn:
                    times[name].append(taken / plain)
        if not most:
            least = _bytes(runner, None, word)
            most = {name: max(_bytes(runner, method, word) - least, 0) for name, method in methods.items()}
    return {name: Cost(median(times[name]), most[name]) for name in methods}


def _seconds(runner: CaseRunner, method: Attribution | None, word: str) -> float:
    begun = time.perf_counter()
    _attribute(runner, method, word)
    return time.perf_counter() - begun


def _bytes(runner: CaseRunner, method: Attribution | None, word: str) -> int:
    with TensorBytes() as counted:
        _attribute(runner, method, word)
    most: int = counted.most
    return most


def _attribute(runner: CaseRunner, method: Attribution | None, word: str) -> None:
    run = runner.run(() if method is None else joined_hooks([method], [word]))
    if method is not None:
        method.heat_map(run, word).values.cpu()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
