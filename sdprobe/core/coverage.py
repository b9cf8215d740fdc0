"""`Coverage`: how often each hook of a run acted, and which sites in the denoiser were asked for and seen."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sdprobe.core.data_frame import data_frame
from sdprobe.core.module_names import fits
from sdprobe.plot.table import as_html, as_text


@dataclass
class HookCalls:
    """How many calls one hook had, at each of its points.

    Attributes:
        hook: the hook's repr.
        calls: number of calls by point; a limited hook is counted only where its limits let it act.
        strict: whether to warn if it never acted.
    """

    hook: str
    calls: dict[str, int]
    strict: bool = True

    @property
    def total(self) -> int:
        """The calls at all points."""
        return sum(self.calls.values())

    def __str__(self) -> str:
        return ", ".join(f"{point} {count}" for point, count in self.calls.items() if count) or "never"


@dataclass
class Coverage:
    """Which sites in the denoiser were asked for, seen or missed (with the reason), and how often each hook acted.

    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps(places=["down"])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=2, progress=False)
    >>> print(run.coverage)
    2 sites seen, 0 missed
    site                                                   kind   seen     missing
    down_blocks.0.attentions.0.transformer_blocks.0.attn2  cross  2 times
    down_blocks.1.attentions.0.transformer_blocks.0.attn2  cross  2 times
    not asked for: 7 self, 5 cross
    hook                                                acted
    AttentionMaps(modules=('down*',), places=['down'])  attention 4

    Attributes:
        sites: every attention site of the denoiser, with its kind.
        asked: every site that a hook asked for, with its kind.
        seen: how many times each site was seen.
        missed: for each site that was not seen, or not in every pass, the reason.
        uncompiled: the parts of the denoiser that ran without ``torch.compile``, since hooks look inside them; ``""``
            is the whole denoiser.
        hooks: how often each hook acted, in the order given (`HookCalls`).
        passed: every site that hooks were called at, in the order in which the networks first passed them: the name of
            an attention site, and for a module's tensor also its side and stream, as `ActivationKey` prints it.
        unknown: what is not known of a pipeline, each in words; mostly of one that no family knows.
    """

    sites: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    uncompiled: set[str] = field(default_factory=set)
    hooks: list[HookCalls] = field(default_factory=list)
    passed: dict[str, None] = field(default_factory=dict, repr=False)
    unknown: tuple[str, ...] = ()
    _counted: dict[int, HookCalls] = field(default_factory=dict, repr=False, compare=False)

    def note_unknown(self, what: str) -> None:
        """Note something that is not known of the pipeline, once."""
        if what not in self.unknown:
            self.unknown = (*self.unknown, what)

    def count_calls_of(self, hook: object, name: str, points: Sequence[str], strict: bool) -> None:
        """Count the calls of a hook from now on."""
        if points:
            self.hooks.append(HookCalls(name, dict.fromkeys(points, 0), strict))
            self._counted[id(hook)] = self.hooks[-1]

    def count(self, hook: object, point: str) -> None:
        """Count a call of a hook at a point. Ignores hooks that are not counted, such as those of a further call."""
        if (counted := self._counted.get(id(hook))) is not None:
            counted.calls[point] += 1

    def warn_of_idle(self) -> None:
        """Warn of hooks that never acted in a finished run, unless they have ``strict=False``."""
        for own in self.hooks:
            if own.strict and not own.total:
                warnings.warn(
                    f"{own.hook} never acted in this run: at {', '.join(own.calls)} it was not called once, so the run "
                    f"says nothing about it. See run.coverage; with strict=False there is no warning",
                    stacklevel=2,
                )

    def warn_of_unseen(self, hook: object, patterns: Sequence[str]) -> None:
        """Warn, of a hook that acted, of its patterns on modules of which none ran, unless it has ``strict=False``."""
        counted = self._counted.get(id(hook))
        if counted is None or not counted.total or not counted.strict:
            return
        seen = {name.rpartition(" (")[0] or name for name in self.seen}
        for pattern in patterns:
            if not any(fits(name, pattern) for name in seen):
                warnings.warn(
                    f"{counted.hook}: of the modules that fit {pattern!r} none ran in this run, so it acted at others "
                    f"only; see run.coverage. With strict=False there is no warning",
                    stacklevel=2,
                )

    def to_pandas(self, of: Literal["sites", "hooks"] = "sites") -> Any:
        """Return a data frame of pandas with a row for each site, or for each hook and point.

        >>> import sdprobe
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["statistics"], steps=2, progress=False)
        >>> run.coverage.to_pandas("hooks")
                   hook       point  calls
        0  Statistics()  noise_pred      2
        >>> list(run.coverage.to_pandas())
        ['site', 'kind', 'asked', 'seen', 'missing']

        Args:
            of: ``"sites"``: every site known, its kind, whether a hook asked for it, how many times it was seen, and
                the reason if it was missed. ``"hooks"``: how often each hook acted at each of its points.

        Raises:
            ImportError: if pandas is not installed.
            ValueError: for another name.
        """
        if of == "hooks":
            calls = [(own.hook, point, count) for own in self.hooks for point, count in own.calls.items()]
            return data_frame({name: [row[i] for row in calls] for i, name in enumerate(("hook", "point", "calls"))})
        if of != "sites":
            raise ValueError(f"coverage has tables of 'sites' and of 'hooks', not of {of!r}")
        names = list(dict.fromkeys([*self.sites, *self.asked, *self.seen, *self.missed]))
        columns: dict[str, list[Any]] = {
            "site": names,
            "kind": [self.sites.get(name, self.asked.get(name, "")) for name in names],
            "asked": [name in self.asked for name in names],
            "seen": [self.seen.get(name, 0) for name in names],
            "missing": [self.missed.get(name, "") for name in names],
        }
        return data_frame(columns)

    def __str__(self) -> str:
        rest = Counter(kind for name, kind in self.sites.items() if name not in self.asked)
        left = [f"not asked for: {', '.join(f'{n} {kind}' for kind, n in rest.items())}"] if rest else []
        tables = [as_text(rows) for rows in (self._rows(), self._hook_rows())]
        sites, hooks = (lines if len(lines) > 1 else [] for lines in tables)
        return "\n".join([self._summary(), *sites, *left, *self._uncompiled(), *hooks, *self._unknown()])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_counted": {}}  # its keys are ids of objects, which differ in a copy

    def _repr_html_(self) -> str:
        tables = as_html(self._rows(), self._summary()) + as_html(self._hook_rows(), "how often each hook acted")
        unknown = [(what,) for what in self.unknown]
        return tables + (as_html([("what",), *unknown], "not known of this pipeline") if unknown else "")

    def _summary(self) -> str:
        return f"{len(self.seen)} sites seen, {len(self.missed)} missed"

    def _uncompiled(self) -> list[str]:
        parts = ", ".join(part or "the denoiser" for part in sorted(self.uncompiled))
        return [f"ran without torch.compile, since hooks look inside: {parts}"] if parts else []

    def _unknown(self) -> list[str]:
        return [f"not known of this pipeline: {'; '.join(self.unknown)}"] if self.unknown else []

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("site", "kind", "seen", "missing")]
        for name in dict.fromkeys([*self.asked, *self.seen, *self.missed]):
            times = self.seen.get(name, 0)
            seen = f"{times} time{'s' * (times != 1)}" if times else "no"
            rows.append((name, self.asked.get(name, ""), seen, self.missed.get(name, "")))
        return rows

    def _hook_rows(self) -> list[tuple[str, ...]]:
        return [("hook", "acted"), *((own.hook, str(own)) for own in self.hooks)]
