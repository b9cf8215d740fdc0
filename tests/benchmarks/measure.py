"""CPU time, in place and in interleaved pairs, so that what else the machine does matters little."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class Account:
    """The CPU time of this thread, booked to whatever runs innermost: nested spans do not count twice."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def booked(self, name: str) -> Iterator[None]:
        """Book to a name what runs while this is open, but for what is booked to another name meanwhile."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def booking(self, name: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, each call booked to a name."""

        def booked(*args: Any, **kwargs: Any) -> Result:
            self._switch()
            self._open.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._open.pop()

        return booked

    def _switch(self) -> None:
        now = time.thread_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU time of the process for one call."""
    before = time.process_time()
    work()
    return time.process_time() - before


def in_pairs(
    plain: Callable[[], object],
    other: Callable[[], object],
    count: int,
    seconds: Callable[[Callable[[], object]], float] = cpu_seconds,
) -> list[tuple[float, float]]:
    """The times of the one and of the other, in pairs whose order alternates."""
    found = []
    for pair in range(count):
        if pair % 2:
            cost, base = seconds(other), seconds(plain)
        else:
            base, cost = seconds(plain), seconds(other)
        found.append((base, cost))
    return found


def ratios(plain: Callable[[], object], other: Callable[[], object], pairs: int) -> list[float]:
    """CPU time of the one over that of the other, in pairs whose order alternates."""
    return [cost / base for base, cost in in_pairs(plain, other, pairs)]


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Median (least to greatest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def one_thread() -> str:
    """Compute on one thread from here on; gives the line that says what is measured with."""
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {torch.get_num_threads()} thread, {capability}, fp32"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows in columns, as Markdown has them."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def apart(script: str, *arguments: Any) -> dict[str, Any]:
    """What a benchmark's ``--one`` prints, from a process of its own on one thread: memory is a process's."""
    asked = [sys.executable, script, "--one", json.dumps(arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        asked, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
