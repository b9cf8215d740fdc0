"""The settings of a run and what made it, as ``run.json`` holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

from sdprobe.core.provenance import Provenance
from sdprobe.core.run import Settings
from sdprobe.core.run_settings import PartlyKnownSettings
from sdprobe.core.written_values import MOST_ENTRIES, count, flag, line, listed, mapping, number, text, whole
from sdprobe.plot.printable import printable

MAY_BE_UNKNOWN = ("steps", "guidance_scale", "scheduler", "height", "width")
"""What may be None in a pipeline that no family knows."""

NOT_FINITE = ("nan", "inf", "-inf")


def read_settings(written: Mapping[str, Any]) -> Settings:
    """Return the settings; keys that a later version may have added are ignored.

    Raises ValueError and KeyError for anything else than settings.
    """
    read = {own.name: _SETTINGS[own.name] for own in fields(Settings) if own.default is MISSING or own.name in written}
    kind = PartlyKnownSettings if any(written[name] is None for name in MAY_BE_UNKNOWN) else Settings
    found = kind(**{name: own(written[name]) for name, own in read.items()})
    if isinstance(found.seed, tuple) and len(found.seed) != found.images:
        raise ValueError(f"{len(found.seed)} seeds for {found.images} images")
    count(found.images)
    return found


def _texts(given: Any) -> tuple[str, ...]:
    return tuple(map(text, listed(given)))


_SETTINGS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "prompt": _texts,
        "negative_prompt": _texts,
        "steps": lambda own: _maybe(count, own),
        "guidance_scale": lambda own: _maybe(number, own),
        "seed": lambda own: tuple(map(whole, listed(own))) if isinstance(own, list) else _maybe(whole, own),
        "scheduler": lambda own: _maybe(line, own),
        "height": lambda own: _maybe(_side, own),
        "width": lambda own: _maybe(_side, own),
        "images_per_prompt": count,
        "negative_given": flag,
        "strength": lambda own: _maybe(number, own),
        "start_step": count,
        "chunks": flag,
        "weights": flag,
        "frames": lambda own: _maybe(count, own),
        "guidance_scale_2": lambda own: _maybe(number, own),
    }
)
"""How each setting is read."""


def _side(given: Any) -> int:
    return count(given, MOST_ENTRIES)


def _maybe(read: Callable[[Any], Any], given: Any) -> Any:
    return None if given is None else read(given)


def read_level(written: Any) -> tuple[float, float, float, float]:
    """Return the timestep, sigma, signal and noise of a step; a number that is not finite is written as a text."""
    timestep, sigma, signal, noise = (float(own) if own in NOT_FINITE else number(own) for own in listed(written))
    return timestep, sigma, signal, noise


def read_provenance(written: Mapping[str, Any]) -> Provenance:
    """Return what made the run. Raises ValueError and KeyError for anything else."""
    own = {name: _maybe(text, written[name]) for name in ("source", "weights", "dtype", "device")}
    versions = {line(name): line(number) for name, number in mapping(written["versions"]).items()}
    return Provenance(printable(text(written["model"])), versions=versions, **own)
