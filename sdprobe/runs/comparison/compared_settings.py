"""What differs in how two runs were made; and which of their images and steps have the same meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from math import isclose, isnan
from typing import Any

from sdprobe.core.run import Run
from sdprobe.runs.comparison.recorded_values import calls_of
from sdprobe.runs.hooks_of_run import hooks_of_run


def compared_settings(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by name, each as the two values: settings, the model's name, and the transforms.

    Where the scheduler's name and its steps do not, its noise levels still can: the first step where they do is named.
    """
    both: dict[str, tuple[Any, Any]] = {"model": (a.model_name, b.model_name)}
    both |= {own.name: (getattr(a.settings, own.name), getattr(b.settings, own.name)) for own in fields(a.settings)}
    both |= {
        "resumed_at": (a.resumed_at, b.resumed_at),
        "stopped_at": (a.stopped_at, b.stopped_at),
        "transforms": (_transforms(a), _transforms(b)),
    }
    if (step := _levels_apart(a, b)) is not None:
        both["noise levels"] = (_level(a, step), _level(b, step))
    return {name: values for name, values in both.items() if values[0] != values[1]}


def _levels_apart(a: Run, b: Run) -> int | None:
    """Return the first step at which runs of one scheduler, with as many steps, are at other noise levels."""
    same = a.settings.scheduler == b.settings.scheduler and _begun_at(a) == _begun_at(b)
    pairs = zip(a.levels, b.levels, strict=False) if same else ()
    return next((step for step, (x, y) in enumerate(pairs) if not all(map(_alike, x, y))), None)


def _alike(x: float, y: float) -> bool:
    """Whether two numbers are the same but for rounding; also where both are none, as after the last step."""
    return isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) or (isnan(x) and isnan(y))


def _level(run: Run, step: int) -> str:
    timestep, sigma, _, _ = run.levels[step]
    return f"step {step}: timestep {timestep:g}, sigma {sigma:.6g}"


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
    elif (step := _levels_apart(a, b)) is not None:
        notes.append(
            f"steps are compared by number, and from step {step} on their noise levels differ: the schedulers are "
            f"configured differently"
        )
    return True


def _begun_at(run: Run) -> tuple[int, int]:
    return run.settings.steps, run.settings.start_step
