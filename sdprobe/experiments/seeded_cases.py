"""`seeded_cases`: the cases of a ready experiment: texts with several seeds, or cases as they were given."""

from __future__ import annotations

from collections.abc import Iterable

from sdprobe.experiments.case import Case, cases

SEEDS = range(12)


def seeded_cases(given: str | Case | Iterable[str | Case], seeds: int | Iterable[int] | None) -> list[Case]:
    """Return cases: of each prompt with each seed. Without seeds, of a text with twelve, and a `Case` as it is.

    >>> len(seeded_cases("a red circle", None)), len(seeded_cases([Case("a red circle", seed=3)], None))
    (12, 1)

    Raises ValueError as `cases`.
    """
    several = [given] if isinstance(given, (str, Case)) else list(given)
    if seeds is not None:
        return cases(several, seeds)
    return cases([own for one in several for own in ([one] if isinstance(one, Case) else cases(one, SEEDS))])
