"""What a limited hook is: a hook within, and the limits of where it may act."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sdprobe.core.compose import Hook
from sdprobe.core.hook import Transform
from sdprobe.core.limits.row_subset import RowSubset, rows_of_run
from sdprobe.core.run import Coverage, Role, Row, Run, Site, Step, Text, run_of
from sdprobe.core.short_repr import short_repr

Steps = Container[int] | Callable[[Step], bool]
Sites = str | Sequence[str] | Callable[[Site], bool]
Rows = Role | Container[int] | Callable[[Row], bool]


class NamedLimit:
    """A limit that prints as a combinator: ``after(10)``."""


@dataclass(frozen=True)
class Limit:
    """Where a hook may act; None is no limit."""

    steps: Steps | None = None
    sites: tuple[str, ...] | Sequence[str] | Callable[[Site], bool] | None = None
    rows: Rows | None = None

    def includes_step(self, step: Step) -> bool:
        """Whether it lets a hook act in a step."""
        if self.steps is None:
            return True
        return self.steps(step) if callable(self.steps) else step.index in self.steps

    def includes_site(self, site: Site) -> bool:
        """Whether it lets a hook act at a site, in a step in which it does."""
        return self.sites(site) if callable(self.sites) else self.may_include_site(site.name)

    def may_include_site(self, name: str) -> bool:
        """Whether it could let a hook act at a site of this name."""
        if self.sites is None or callable(self.sites):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.sites)

    def includes_row(self, row: Row) -> bool:
        """Whether it lets a hook act on a row."""
        if self.rows is None or callable(self.rows):
            return self.rows is None or self.rows(row)
        return row.role == self.rows if isinstance(self.rows, str) else row.image in self.rows

    def around(self, said: str) -> str:
        """How a hook prints that is limited so."""
        if self == Limit(self.steps) and isinstance(self.steps, NamedLimit):
            return f"{self.steps!r}({said})"
        limits = {"steps": self.steps, "sites": self.sites, "rows": self.rows}
        shown = [f", {name}={short_repr(value)}" for name, value in limits.items() if value is not None]
        return f"only({said}{''.join(shown)})"


class LimitedHook:
    """What every limited hook does, whichever points it has."""

    inner: Any
    limit: Callable[..., Any]  # `only` itself
    counts_its_calls = True

    def __init__(self, hook: Hook, limits: tuple[Limit, ...]) -> None:
        self.inner, self.limits = hook, limits
        self.listen()
        self.subset: RowSubset | None = None
        self.coverage: Coverage | None = None
        if isinstance(hook, Transform):
            self.needs_grad = hook.needs_grad

    def start(self, run: Run) -> None:
        given, self.inner = self.inner, copy.copy(self.inner)
        run.records.append((given, self.inner))
        self.coverage = run.coverage
        self._refuse_idle(run)
        self.inner.start(self.begin(run))
        self.listen()  # a hook may choose its modules when it knows the model

    def listen(self) -> None:
        """Listen where the hook within does."""
        self.modules, self.kinds, self.strict = self.inner.modules, self.inner.kinds, self.inner.strict

    def begin(self, run: Run) -> Run:
        """The run that the hook within is told of."""
        if not self.by_rows:
            return run
        self.subset = self.subset_of(run)
        return self.subset.part

    def finish(self, run: Run) -> None:
        self.inner.finish(run if self.subset is None else self.subset.part)

    def pass_on(self, point: str, x: Any, place: Any) -> Any:
        """What it returns at a point."""
        if not self.acts_at(place):
            return x if isinstance(self, Transform) else None
        if not self.by_rows:
            return self.call_inner(point, x, place)
        self.count(point)
        # A hook that `Step.predict` was given has not begun, and is told of the run only here.
        subset = self.subset or self.subset_of(run_of(place))
        return subset.passing(self, self.inner, point, x, place)  # type: ignore[arg-type]

    def call_inner(self, point: str, x: Any, place: Any) -> Any:
        """What the hook within returns at a point, where it acts."""
        self.count(point)
        return getattr(self.inner, point)(x, place)

    def count(self, point: str) -> None:
        """Note that the hook within acts, in a run that has begun with it."""
        if self.coverage is not None:
            self.coverage.count(self, point)

    @property
    def by_rows(self) -> bool:
        """Whether rows are limited at all."""
        return any(limit.rows is not None for limit in self.limits)

    @property
    def by_sites(self) -> bool:
        """Whether sites are limited at all."""
        return any(limit.sites is not None for limit in self.limits)

    def subset_of(self, run: Run) -> RowSubset:
        """The part of a run that it acts on."""
        return RowSubset(run, self.includes_row, lambda hook: self.limit(hook, rows=self.includes_row))

    def includes_step(self, step: Step) -> bool:
        """Whether it acts in a step."""
        return all(limit.includes_step(step) for limit in self.limits)

    def includes_site(self, site: Site) -> bool:
        """Whether it acts at a site, in a step in which it does."""
        return all(limit.includes_site(site) for limit in self.limits)

    def may_include_site(self, name: str) -> bool:
        """Whether it could act at a site of this name."""
        return all(limit.may_include_site(name) for limit in self.limits)

    @property
    def has_site_function(self) -> bool:
        """Whether a function says at which sites it acts."""
        return any(callable(limit.sites) for limit in self.limits)

    def includes_row(self, row: Row) -> bool:
        """Whether it acts on a row, where it acts."""
        return all(limit.includes_row(row) for limit in self.limits)

    def acts_at(self, place: Text | Step | Site | Run) -> bool:
        """Whether it acts at a place; outside the steps it always does."""
        if isinstance(place, Site):
            return self.includes_step(place.step) and self.includes_site(place)
        return not isinstance(place, Step) or self.includes_step(place)

    def _refuse_idle(self, run: Run) -> None:
        """Refuse what can be known before the run: patterns that match nothing, rows that it has not."""
        names = [name for name, _ in run.model.denoiser.named_modules()]
        rows = rows_of_run(run)
        for limit in self.limits:
            for pattern in () if callable(limit.sites) else limit.sites or ():
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise ValueError(f"the site pattern {pattern!r} matches no module of this model")
            roles = sorted({row.role for row in rows})
            if isinstance(limit.rows, str) and limit.rows not in roles:
                raise ValueError(f"this run has no rows of role {limit.rows!r}; its roles: {', '.join(roles)}")
        if not any(map(self.includes_row, rows)):
            raise ValueError(
                f"{self!r} would never act: its rows are none of this run's {run.settings.images} "
                f"image{'s' * (run.settings.images != 1)}, counted from 0, with the roles {', '.join(roles)}"
            )

    def refuse_unreachable(self, steps: Sequence[Step], sites_of: Callable[[Step], Sequence[Site] | None]) -> None:
        """Refuse limits that let it act in no step of the run, or at no site; a function that cannot tell is trusted.

        Args:
            steps: every step the run is to make, with latents that hold no numbers yet.
            sites_of: the sites at which the hook would be called in a step; None where they are not known yet.

        Raises:
            ValueError: naming the limits and what there is.
        """
        acting = [step for step in steps if _tell(self.includes_step, step)]
        if not acting:
            raise ValueError(
                f"{self!r} would never act: its steps are none of this run's {len(steps)}, {steps[0].index} to "
                f"{steps[-1].index}"
            )
        if not self.by_sites or (known := sites_of(acting[0])) is None:
            return
        if not any(_tell(self.includes_site, site) for step in acting for site in sites_of(step) or ()):
            raise ValueError(
                f"{self!r} would never act: its sites are none of the {len(known)} it is called at, such as "
                f"{', '.join(site.name for site in known[:3]) or '(none)'}"
            )

    def __repr__(self) -> str:
        said = repr(self.inner)
        for limit in self.limits:
            said = limit.around(said)
        return said

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.limit, self.inner, self.limits)


def _again(limit: Callable[..., Any], hook: Hook, limits: tuple[Limit, ...]) -> Any:
    for own in limits:
        hook = limit(hook, steps=own.steps, sites=own.sites, rows=own.rows)
    return hook


def _tell(includes: Callable[[Any], bool], place: Step | Site) -> bool:
    """What limits say of a place; True where a function needs to know what only the run itself will show."""
    try:
        return bool(includes(place))
    except Exception:  # the function itself raises it when it is called in the run, with all there is to know
        return True
