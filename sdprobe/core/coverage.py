"""Which places inside the denoiser hooks asked for, which were seen, and which were not, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sdprobe.plot.table import as_html, as_text


@dataclass
class Coverage:
    """Which sites inside the denoiser hooks asked for, which were seen, and which were not, and why.

    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps(places=["down"])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=2, progress=False)
    >>> print(run.coverage)
    2 sites seen, 0 missed
    site                                                   kind   seen     missing
    down_blocks.0.attentions.0.transformer_blocks.0.attn2  cross  2 times
    down_blocks.1.attentions.0.transformer_blocks.0.attn2  cross  2 times
    not asked for: 7 self, 5 cross

    Attributes:
        sites: every attention site of the denoiser, by its kind.
        asked: every site that some hook asked for, by its kind.
        seen: how many times each of them was seen.
        missed: why a site was not seen.
    """

    sites: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rest = Counter(kind for name, kind in self.sites.items() if name not in self.asked)
        left = [f"not asked for: {', '.join(f'{n} {kind}' for kind, n in rest.items())}"] if rest else []
        return "\n".join([self._summary(), *(as_text(self._rows()) if self._rows()[1:] else ()), *left])

    def _repr_html_(self) -> str:
        return as_html(self._rows(), self._summary())

    def _summary(self) -> str:
        return f"{len(self.seen)} sites seen, {len(self.missed)} missed"

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("site", "kind", "seen", "missing")]
        for name in dict.fromkeys([*self.asked, *self.seen, *self.missed]):
            times = self.seen.get(name, 0)
            seen = f"{times} time{'s' * (times != 1)}" if times else "no"
            rows.append((name, self.asked.get(name, ""), seen, self.missed.get(name, "")))
        return rows
