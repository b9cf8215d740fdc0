"""`step_windows`: ranges of steps by name, for a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

QUARTERS = 4
Windows = Mapping[str, tuple[int, ...]]
"""The numbers of the steps, by the window's name."""

GivenWindows = Mapping[str, Iterable[int]] | Iterable[Iterable[int] | int] | None


def step_windows(given: GivenWindows, total: int) -> Windows:
    """Return windows of steps by name: those given, or all steps, and the quarters of the run.

    >>> step_windows(None, 8)
    {'all steps': (0, 1, 2, 3, 4, 5, 6, 7), '0–1': (0, 1), '2–3': (2, 3), '4–5': (4, 5), '6–7': (6, 7)}
    >>> step_windows([range(2), 7], 8)
    {'0–1': (0, 1), '7': (7,)}

    Args:
        given: windows by name; or windows, which are named by their numbers: ranges, lists of steps, or one step.
        total: the number of steps of the run.

    Raises:
        ValueError: for a window without steps, for steps that the run does not have, and for two windows of one name.
        TypeError: for steps that are no whole numbers.
    """
    if given is None:
        parts = min(QUARTERS, total)
        given = [range(total), *(range(k * total // parts, (k + 1) * total // parts) for k in range(parts))]
        given = list(dict.fromkeys(given))  # of a run of one step
    if isinstance(given, Mapping):
        found = {str(name): _numbers(own, total) for name, own in given.items()}
    else:
        several = [_numbers(own, total) for own in given]
        found = {window_name(own, total): own for own in several}
        if len(found) < len(several):
            raise ValueError(
                f"two windows have the same steps: {', '.join(window_name(own, total) for own in several)}"
            )
    if not found:
        raise ValueError(f"there is no window of steps: give some, such as [range({total})]")
    return found


def steps_of_run(model: Any, how: Mapping[str, Any]) -> int:
    """Return how many steps a run has: those asked for, or the model's own number.

    >>> import sdprobe
    >>> steps_of_run(sdprobe.load(), {"steps": 8})
    8
    """
    asked = how.get("steps")
    return int(model.default("num_inference_steps") if asked is None else asked)


def window_name(steps: tuple[int, ...], total: int) -> str:
    """Return the name of a window.

    >>> window_name((2, 3, 4), 8), window_name((0, 5), 8), window_name((0, 1), 2)
    ('2–4', '0, 5', 'all steps')
    """
    if steps == tuple(range(total)) and total > 1:
        return "all steps"
    if len(steps) > 1 and steps == tuple(range(steps[0], steps[-1] + 1)):
        return f"{steps[0]}–{steps[-1]}"
    return ", ".join(map(str, steps))


def _numbers(given: Any, total: int) -> tuple[int, ...]:
    one = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    if isinstance(one, (str, bool)) or not isinstance(one, Iterable):
        raise TypeError(f"a window is a range of steps, a list of their numbers or one number, not {given!r}")
    found = tuple(sorted(dict.fromkeys(one)))
    if not found:
        raise ValueError(f"a window has at least one step, and {given!r} has none")
    if wrong := [own for own in found if not isinstance(own, int) or isinstance(own, bool)]:
        raise TypeError(f"steps are whole numbers, not {wrong[0]!r}")
    if beyond := [own for own in found if not 0 <= own < total]:
        raise ValueError(f"the run has {total} steps, 0 to {total - 1}, and no step {beyond[0]}")
    return found
