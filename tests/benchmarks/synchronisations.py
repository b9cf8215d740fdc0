"""Where a call makes the CPU wait for the GPU: each wait that torch reports, by the line of Python that caused it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

import sdprobe

REPORTED = "called a synchronizing CUDA operation"  # torch's words, for each one
PACKAGE = Path(sdprobe.__file__).parent


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).relative_to(PACKAGE) if self.is_own else self.file}:{self.line}"

    @property
    def is_own(self) -> bool:
        """Whether it is a line of sdprobe."""
        return PACKAGE in Path(self.file).parents


def synchronisations(work: Callable[[], object]) -> list[Place]:
    """Call it, and return the place of each synchronisation with the GPU."""
    usual = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(usual)
    return [Place(each.filename, each.lineno) for each in caught if REPORTED in str(each.message)]


def counted(places: Iterable[Place]) -> str:
    """Each place once, with how often it is there: ``model/base.py:246 ×10``."""
    return ", ".join(f"{place} ×{count}" for place, count in Counter(places).most_common())
