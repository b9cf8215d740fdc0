"""`untouched_run`: a case run without transforms, with its attention, for conditions that are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Observer
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.plot.heatmap import HeatMap


class SitesWithText(Observer):
    """Keeps the sites where the picture looks at the text, each as it was in the last step."""

    kinds = ("cross", "joint")

    def start(self, run: Run) -> None:
        self.sites: dict[str, Site] = {}

    def attention(self, attn: Attention, site: Site) -> None:
        if site.text is not None:
            self.sites[site.name] = site


@dataclass(frozen=True)
class UntouchedRun:
    """A run without transforms.

    Args:
        run: the run; its hooks include an `sdprobe.AttentionMaps`.
        maps: what that recorded.
        sites: the sites where the picture looks at the text.
    """

    run: Run
    maps: AttentionMaps
    sites: tuple[Site, ...]

    def heat_map(self, word: str | int) -> HeatMap:
        """Return the heat map of a word. Raises `WordNotInPrompt`."""
        return self.maps.heat_map(word)


def untouched_run(runner: CaseRunner) -> UntouchedRun:
    """Return the untouched run of a case; all conditions that ask for it share it.

    >>> import sdprobe
    >>> from sdprobe.experiments.case import Case
    >>> from sdprobe.experiments.sampler import sampler_of
    >>> found = untouched_run(CaseRunner(sampler_of(sdprobe.load()), Case("a red circle"), {"steps": 2}))
    >>> found.heat_map("red"), sorted({site.grid for site in found.sites})
    (HeatMap('red', 16×16), [(4, 4), (8, 8), (16, 16)])
    """

    def make() -> UntouchedRun:
        maps, sites = AttentionMaps(), SitesWithText()
        run = runner.run([maps, sites])
        return UntouchedRun(run, run[maps], tuple(run[sites].sites.values()))

    found: Any = runner.once("untouched, with its attention", make)
    assert isinstance(found, UntouchedRun)
    return found
