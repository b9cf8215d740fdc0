"""`Report`: the laws a hook was checked against, and the results, as a table."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Literal

from sdprobe.plot.table import as_html, as_text
from sdprobe.testing.law import Law

Verdict = Literal["holds", "fails", "does not apply", "not tried"]


@dataclass(frozen=True)
class Finding:
    """One law and its result.

    Args:
        law: the law.
        verdict: ``"holds"``; ``"fails"``; ``"does not apply"``, if there is nothing to check; ``"not tried"``, if a law
            that it depends on does not hold.
        why: the reason. Empty if the law holds.
        error: the error, if it fails.
        seconds: how long the check took.
    """

    law: Law
    verdict: Verdict
    why: str = ""
    error: Exception | None = field(default=None, repr=False)
    seconds: float = field(default=0.0, repr=False)


class LawsBroken(AssertionError):
    """A hook breaks laws. The message is the table of all; each failure is a cause, with its traceback.

    Attributes:
        report: the `Report`.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.hook} does not keep its laws\n\n{report}")
        self.report = report


@dataclass(frozen=True)
class Report:
    """The results of every law, for one hook. Prints as a table, also in a notebook.

    Args:
        hook: the hook's repr.
        findings: one for each law, in the order tried.
    """

    hook: str
    findings: tuple[Finding, ...]

    def named(self, verdict: Verdict) -> tuple[str, ...]:
        """Return the names of the laws with this result."""
        return tuple(found.law.name for found in self.findings if found.verdict == verdict)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The laws that fail."""
        return tuple(found for found in self.findings if found.verdict == "fails")

    def raise_for_failures(self) -> None:
        """Raise `LawsBroken`, an AssertionError, with the table, if any law fails."""
        __tracebackhide__ = True
        if errors := [found.error for found in self.failures if found.error is not None]:
            raise LawsBroken(self) from ExceptionGroup(f"laws that {self.hook} does not keep", errors)

    @property
    def _rows(self) -> list[tuple[str, str, str]]:
        return [("law", "", "why"), *((f.law.name, f.verdict, f.why) for f in self.findings)]

    def __str__(self) -> str:
        lines = []
        for line, (_, _, why) in zip(as_text([(a, b, "") for a, b, _ in self._rows]), self._rows, strict=True):
            width = max(len(name) for name, _, _ in self._rows) + 18
            lines.append(textwrap.indent(textwrap.fill(why, 118 - width) or " ", " " * width)[width:])
            lines[-1] = f"{line:{width}}{lines[-1]}".rstrip()
        counts = {verdict: len(self.named(verdict)) for verdict in ("holds", "fails", "does not apply", "not tried")}
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return "\n".join([*lines, f"{self.hook}: {said}"])

    def _repr_html_(self) -> str:
        return as_html(self._rows, self.hook)
