"""`installed_claims`: what installed distributions register by entry points, read once as long as none is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint
from typing import Any


@dataclass(frozen=True)
class Claim:
    """A registration of a name, by an installed distribution or in this session."""

    name: str
    distribution: str
    version: str
    source: str
    load: Callable[[], Any]

    def __str__(self) -> str:
        who = f"{self.distribution} {self.version}".strip()
        return f"{who} ({self.source})" if who else self.source


def installed_claims(group: str, read: Callable[..., Iterable[EntryPoint]]) -> tuple[Claim, ...]:
    """Return the registrations of a group of entry points; imports nothing.

    To read them takes some ten milliseconds, and a hook is made by name in every run of a sweep. They are read again
    once the path is another, or something was installed in a folder of it.

    >>> from importlib.metadata import entry_points
    >>> {claim.name: claim for claim in installed_claims("sdprobe.hooks", entry_points)}["latents"].distribution
    'sdprobe'

    Args:
        group: the group.
        read: reads it, as `importlib.metadata.entry_points` does.
    """
    return _read(group, read, tuple(map(_state_of, sys.path)))


@lru_cache(maxsize=4)
def _read(group: str, read: Callable[..., Iterable[EntryPoint]], state: tuple[Any, ...]) -> tuple[Claim, ...]:
    entries = list(read(group=group))
    # A distribution reads its metadata anew for each question, and most entries are of one distribution.
    distributions = {id(entry.dist): entry.dist for entry in entries if entry.dist is not None}
    who = {key: (own.name, own.version) for key, own in distributions.items()}
    return tuple(Claim(entry.name, *who.get(id(entry.dist), ("", "")), entry.value, entry.load) for entry in entries)


def _state_of(path: str) -> tuple[str, int]:
    """Return a folder of the path and when it was last written to: what is installed there changes that."""
    try:
        return path, os.stat(path or ".").st_mtime_ns
    except OSError:
        return path, 0
