"""Figures in one style, heat maps, and how results show themselves in a notebook."""

from sdprobe.plot.figures import HEAT, Cell, colored, curves, heat_on, overlay, sheet

__all__ = ["HEAT", "Cell", "colored", "curves", "heat_on", "overlay", "sheet"]
