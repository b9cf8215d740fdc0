"""`MapsOfTexts`: heat maps of any text, in the prompt or not, from the queries that a run recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from sdprobe.core.attribution import run_of
from sdprobe.core.attribution_registry import attribution
from sdprobe.core.hook import Observer
from sdprobe.core.run import Run
from sdprobe.plot.heatmap import HeatMap


class MapsOfTexts(Observer):
    """What can be asked of a run with `sdprobe.AttentionQueries`.

    Attributes:
        run: the run.
    """

    run: Run

    @overload
    def heat_map_of(self, text: str, image: int = 0, **how: Any) -> HeatMap: ...
    @overload
    def heat_map_of(self, text: Sequence[str], image: int = 0, **how: Any) -> dict[str, HeatMap]: ...
    def heat_map_of(
        self,
        text: str | Sequence[str],
        image: int = 0,
        *,
        step: int | None = None,
        layer: str | None = None,
        head: int | None = None,
        **how: Any,
    ) -> HeatMap | dict[str, HeatMap]:
        """Return the heat map of any text, in the prompt or not, by the method ``"ovam"``.

        >>> import sdprobe
        >>> maps = sdprobe.AttentionMaps()
        >>> hooks, settings = [maps, sdprobe.AttentionQueries()], {"steps": 2, "seed": 0, "progress": False}
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=hooks, **settings)
        >>> run[maps].heat_map_of("a ring")
        HeatMap('a ring', 16×16)
        >>> run[maps].heat_map_of(["circle", "background"])
        {'circle': HeatMap('circle', 16×16), 'background': HeatMap('background', 16×16)}

        Args:
            text: a text. Of several, all are shown together: each is attributed with the others as its ``negative``.
            image: the image number.
            step: this step only.
            layer: this module only.
            head: this head only.
            how: ``context``, ``negative``, ``tokens`` and ``model``, as in `sdprobe.attributions.Ovam`.

        Raises ValueError where the run has no `sdprobe.AttentionQueries`, and as `sdprobe.attributions.Ovam`.
        """
        parts = {"step": step, "layer": layer, "head": head}
        if isinstance(text, str):
            return attribution(("ovam", how)).heat_map(run_of(self, self.run), text, image, **parts)
        beside, texts = how.pop("negative", ()), list(dict.fromkeys(text))
        beside = (beside,) if isinstance(beside, str) else beside
        others = {own: [*beside, *(other for other in texts if other != own)] for own in texts}
        return {own: self.heat_map_of(own, image, **parts, **how, negative=others[own]) for own in texts}
