"""`LimitedHook`: a hook with limits on the steps, sites and rows where it acts. `Limit`: one such limit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sdprobe.core.compose import Hook
from sdprobe.core.hook import Transform
from sdprobe.core.limits.row_subset import RowSubset, rows_of_run
from sdprobe.core.module_names import fits
from sdprobe.core.rows import refuse_unlabelled
from sdprobe.core.run import Coverage, Role, Row, Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import OutsideSite, Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text

Steps = Container[int] | Callable[[Step], bool]
Sites = str | Sequence[str] | Callable[[Site], bool]
Rows = Role | Container[int] | Callable[[Row], bool]


class NamedLimit:
    """A limit with its own name, by which it prints: ``after(10)``."""


@dataclass(frozen=True)
class Limit:
    """The steps, sites and rows where a hook may act; None means no limit."""

    steps: Steps | None = None
    sites: tuple[str, ...] | Sequence[str] | Callable[[Site], bool] | None = None
    rows: Rows | None = None

    @classmethod
    def of(cls, steps: int | Steps | None = None, sites: Sites | None = None, rows: Rows | None = None) -> Limit:
        """Return a limit from what a hook was given.

        Raises:
            TypeError: for steps or rows that are neither numbers nor a function.
            ValueError: for a text as rows that is no role.
        """
        if isinstance(steps, int) and not isinstance(steps, bool):
            steps = (steps,)
        if steps is not None and not callable(steps) and (isinstance(steps, str) or not isinstance(steps, Container)):
            raise TypeError(
                f"steps are numbers such as 5, [0, 5] or range(10), or a function of the Step that says yes or no, not "
                f"{steps!r}"
            )
        if isinstance(rows, str) and rows not in get_args(Role):
            raise ValueError(f"{rows!r} is no role of a row; the roles: {', '.join(get_args(Role))}")
        if rows is not None and not isinstance(rows, Container) and not callable(rows):
            raise TypeError(f"rows are a role, numbers of images such as [0], or a function of the Row, not {rows!r}")
        return cls(steps, (sites,) if isinstance(sites, str) else sites, rows)

    def includes_step(self, step: Step) -> bool:
        """Whether the hook may act in a step."""
        if self.steps is None:
            return True
        return self.steps(step) if callable(self.steps) else step.index in self.steps

    def includes_step_of(self, site: Site) -> bool:
        """Whether the hook may act in the step of a site. Raises ValueError for a limit on steps where it has none."""
        if self.steps is None:
            return True
        if isinstance(site, OutsideSite):
            raise ValueError(
                f"a hook that is limited to steps asks for {site.name}, which runs outside the steps: ask for modules "
                f"of the denoiser only, or take the limit off"
            )
        return self.includes_step(site.step)

    def includes_site(self, site: Site) -> bool:
        """Whether the hook may act at a site, in a step where it may act."""
        return self.sites(site) if callable(self.sites) else self.may_include_site(site.name)

    def may_include_site(self, name: str) -> bool:
        """Whether the hook might act at a site with this name."""
        if self.sites is None or callable(self.sites):
            return True
        return any(fits(name, pattern) for pattern in self.sites)

    def includes_row(self, row: Row) -> bool:
        """Whether the hook may act on a row."""
        if self.rows is None or callable(self.rows):
            return self.rows is None or self.rows(row)
        refuse_unlabelled([row], self.rows)
        return row.role == self.rows if isinstance(self.rows, str) else row.image in self.rows

    def around(self, said: str) -> str:
        """Return the repr of a hook with this limit, from the hook's own repr."""
        if self == Limit(self.steps) and isinstance(self.steps, NamedLimit):
            return f"{self.steps!r}({said})"
        limits = {"steps": self.steps, "sites": self.sites, "rows": self.rows}
        shown = [f", {name}={short_repr(value)}" for name, value in limits.items() if value is not None]
        return f"only({said}{''.join(shown)})"


class LimitedHook:
    """Base of all limited hooks: calls the inner hook where the limits allow it."""

    inner: Any
    limit: Callable[..., Any]  # `only` itself
    counts_its_calls = True

    def __init__(self, hook: Hook, limits: tuple[Limit, ...]) -> None:
        self.inner, self.limits = hook, limits
        self.listen()
        self.subset: RowSubset | None = None
        self.coverage: Coverage | None = None
        if isinstance(hook, Transform):
            self.needs_grad, self.brings = hook.needs_grad, hook.brings

    def start(self, run: Run) -> None:
        given, self.inner = self.inner, copy.copy(self.inner)
        run.records.append((given, self.inner))
        self.coverage = run.coverage
        self._refuse_idle(run)
        self.inner.start(self.begin(run))
        self.listen()  # the inner hook may set its modules in `start`

    def listen(self) -> None:
        """Take over where the inner hook listens."""
        self.modules, self.kinds, self.strict = self.inner.modules, self.inner.kinds, self.inner.strict
        self.sides, self.streams = self.inner.sides, self.inner.streams

    def begin(self, run: Run) -> Run:
        """Return the run that the inner hook receives: the whole run, or only its chosen rows."""
        if not self.by_rows:
            return run
        self.subset = self.subset_of(run)
        return self.subset.part

    def finish(self, run: Run) -> None:
        self.inner.finish(run if self.subset is None else self.subset.part)

    def pass_on(self, point: str, x: Any, place: Any) -> Any:
        """Return the value at a point: from the inner hook where it acts, else unchanged."""
        if not self.acts_at(place):
            return x if isinstance(self, Transform) else None
        if not self.by_rows:
            return self.call_inner(point, x, place)
        self.count(point)
        # A hook given to `Step.predict` was not started, so it gets the run only here.
        subset = self.subset or self.subset_of(run_of(place))
        return subset.passing(self, self.inner, point, x, place)  # type: ignore[arg-type]

    def call_inner(self, point: str, x: Any, place: Any) -> Any:
        """Call the inner hook at a point and count the call."""
        self.count(point)
        return getattr(self.inner, point)(x, place)

    def count(self, point: str) -> None:
        """Count a call of the inner hook, if this hook was started."""
        if self.coverage is not None:
            self.coverage.count(self, point)

    @property
    def by_rows(self) -> bool:
        """Whether any limit is on rows."""
        return any(limit.rows is not None for limit in self.limits)

    @property
    def by_sites(self) -> bool:
        """Whether any limit is on sites."""
        return any(limit.sites is not None for limit in self.limits)

    def subset_of(self, run: Run) -> RowSubset:
        """Return the part of a run that the inner hook acts on."""
        return RowSubset(run, self.includes_row, lambda hook: self.limit(hook, rows=self.includes_row))

    def includes_step(self, step: Step) -> bool:
        """Whether it acts in a step."""
        return all(limit.includes_step(step) for limit in self.limits)

    def includes_site(self, site: Site) -> bool:
        """Whether it acts at a site, in a step where it acts."""
        return all(limit.includes_site(site) for limit in self.limits)

    def may_include_site(self, name: str) -> bool:
        """Whether it might act at a site with this name."""
        return all(limit.may_include_site(name) for limit in self.limits)

    @property
    def has_site_function(self) -> bool:
        """Whether a function decides at which sites it acts."""
        return any(callable(limit.sites) for limit in self.limits)

    def includes_row(self, row: Row) -> bool:
        """Whether it acts on a row."""
        return all(limit.includes_row(row) for limit in self.limits)

    def acts_at(self, place: Text | Step | Site | Run) -> bool:
        """Whether it acts at this point of the run; outside the steps it always does."""
        if isinstance(place, Site):
            return all(limit.includes_step_of(place) for limit in self.limits) and self.includes_site(place)
        return not isinstance(place, Step) or self.includes_step(place)

    def may_act_at(self, site: Site) -> bool:
        """Whether it might act at an expected site: also where a function needs data that only the run has."""
        return _tell(self.acts_at, site)

    def _refuse_idle(self, run: Run) -> None:
        """Refuse limits that are wrong before the run begins: patterns without a module, rows that the run lacks."""
        by_name = self.by_sites and not self.has_site_function
        names = [*run.model.modules, *run.model.modules_outside] if by_name else []
        rows = rows_of_run(run)
        for limit in self.limits:
            for pattern in () if callable(limit.sites) else limit.sites or ():
                if not any(fits(name, pattern) for name in names):
                    raise ValueError(f"the site pattern {pattern!r} matches no module of this model")
            roles = sorted({row.role for row in rows})
            if limit.rows is not None and not callable(limit.rows):
                refuse_unlabelled(rows, limit.rows)
            if isinstance(limit.rows, str) and limit.rows not in roles:
                raise ValueError(f"this run has no rows of role {limit.rows!r}; its roles: {', '.join(roles)}")
        if not any(map(self.includes_row, rows)):
            raise ValueError(
                f"{self!r} would never act: its rows are none of this run's {run.settings.images} "
                f"image{'s' * (run.settings.images != 1)}, counted from 0, with the roles {', '.join(roles)}"
            )

    def refuse_unreachable(self, steps: Sequence[Step], sites_of: Callable[[Step], Sequence[Site] | None]) -> None:
        """Refuse limits that match no step or no site of the run. A function that raises an error here is not refused.

        Args:
            steps: every step of the run, with placeholder latents.
            sites_of: returns the sites at which the hook is called in a step; None if they are not known yet.

        Raises:
            ValueError: naming the limits and the steps or sites of the run.
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


def run_of(place: Text | Step | Site | Run) -> Run:
    """Return the run that a point's second argument belongs to."""
    if isinstance(place, Site):
        return place.run
    return place if isinstance(place, Run) else place.run


def _again(limit: Callable[..., Any], hook: Hook, limits: tuple[Limit, ...]) -> Any:
    for own in limits:
        hook = limit(hook, steps=own.steps, sites=own.sites, rows=own.rows)
    return hook


def _tell(includes: Callable[[Any], bool], place: Step | Site) -> bool:
    """Return whether limits include a step or site; True if a function needs data that only the run has."""
    try:
        return bool(includes(place))
    except Exception:  # in the run, with real data, the function raises it again
        return True
