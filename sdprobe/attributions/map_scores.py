"""`MapScores`: how well a method's heat maps fit the things that words stand for, as a measure of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from sdprobe.attributions.target import Target
from sdprobe.core.attribution import Attribution
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""Of a map scaled from 0 to 1, at which it is cut."""


@dataclass(frozen=True)
class MapScores:
    """For each target: intersection over union at each threshold, average precision, and whether the maximum is inside.

    It returns nothing of a target that the picture does not show, nor of the untouched run, which has no hooks.

    Args:
        method: the method.
        targets: the words, each with its region.
    """

    method: Attribution
    targets: tuple[Target, ...]

    def __call__(self, run: Run, untouched: Run, case: Case) -> dict[str, float]:
        if run is untouched:
            return {}
        found: dict[str, float] = {}
        for number, target in enumerate(self.targets):
            mask = target.region.mask(run, untouched, case) if target.fits(case) else None
            if mask is None or not mask.any():
                continue
            heat = self.method.heat_map(run, case.fill(target.word)).resize((mask.shape[0], mask.shape[1]))
            found[f"{number} precision"] = heat.average_precision(mask)
            found[f"{number} points"] = float(heat.points_into(mask))
            found |= {f"{number} iou {k}": heat.iou(mask, at) for k, at in enumerate(THRESHOLDS)}
        return found
