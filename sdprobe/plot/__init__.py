"""Figures, heat maps, tables, and the display of results in a notebook."""

from sdprobe.plot.figures import HEAT, Cell, colored, curves, heat_on, overlay, sheet

__all__ = ["HEAT", "Cell", "colored", "curves", "heat_on", "overlay", "sheet"]
