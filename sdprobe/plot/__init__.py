"""Figures, heat maps, tables, and the display of results in a notebook."""

from sdprobe.plot.figures import HEAT, Cell, colored, curves, heat_on, overlay, sheet
from sdprobe.plot.mask_scores import PrecisionRecall, average_precision, dice, ioa, iou, precision_recall

__all__ = [
    "HEAT",
    "Cell",
    "PrecisionRecall",
    "average_precision",
    "colored",
    "curves",
    "dice",
    "heat_on",
    "ioa",
    "iou",
    "overlay",
    "precision_recall",
    "sheet",
]
