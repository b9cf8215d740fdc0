"""What differs in how two runs were made; and which of their images and steps have the same meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from sdprobe.core.run import Run
from sdprobe.runs.comparison.recorded_values import calls_of
from sdprobe.runs.hooks_of_run import hooks_of_run


def compared_settings(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by name, each as the two values: settings, the model's name, and the transforms."""
    both: dict[str, tuple[Any, Any]] = {"model": (a.model_name, b.model_name)}
    both |= {own.name: (getattr(a.settings, own.name), getattr(b.settings, own.name)) for own in fields(a.settings)}
    both |= {
        "resumed_at": (a.resumed_at, b.resumed_at),
        "stopped_at": (a.stopped_at, b.stopped_at),
        "transforms": (_transforms(a), _transforms(b)),
    }
    return {name: values for name, values in both.items() if values[0] != values[1]}


def _transforms(run: Run) -> str:
    """Return the transforms of a run, each as it was given, with its limits."""
    found = [repr(own.given) for own in hooks_of_run(run) if own.transforms is not False]
    return ", ".join(found) or "none"


def images_apart(a: Run, b: Run, notes: list[str]) -> range:
    """Return the numbers of the images that both runs have; add a note on those of only one."""
    first, second = a.settings.images, b.settings.images
    shared = min(first, second)
    if first != second:
        side, most = ("a", first) if first > second else ("b", second)
        said = f"image {shared}" if most == shared + 1 else f"images {shared} to {most - 1}"
        notes.append(f"{said} of {side} left out: the other run has only {shared}")
    return range(shared)


def steps_apart(a: Run, b: Run, of_a: Iterable[int], of_b: Iterable[int], notes: list[str]) -> bool:
    """Return whether the steps of two runs are compared by number; add a note on why not, or on what it means.

    Args:
        a: a run.
        b: another run.
        of_a: the steps that were recorded of ``a``.
        of_b: the steps that were recorded of ``b``.
        notes: the notes so far.
    """
    first, second = calls_of(a, of_a), calls_of(b, of_b)
    if first != second:
        notes.append(
            f"steps left out: a calls the denoiser {first} times and b {second} times, so step k of one is at another "
            f"noise level than step k of the other"
        )
        return False
    if a.settings.scheduler != b.settings.scheduler:
        notes.append(
            "steps are compared by number, and the schedulers differ: noise level and scale of x_t can be others at "
            "the same step"
        )
    elif _begun_at(a) != _begun_at(b):
        notes.append(
            "steps are compared by number, and the runs began at other steps of their schedulers: the noise level can "
            "be another at the same step"
        )
    return True


def _begun_at(run: Run) -> tuple[int, int]:
    return run.settings.steps, run.settings.start_step
