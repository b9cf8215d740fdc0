"""What mkdocs-gallery cannot be told in mkdocs.yml: how to find the figures of an example, and its thumbnail.

The scraper of mkdocs-gallery asks pyplot for figures. sdprobe's figures are not registered there, so the value of a
block's last line is taken: what a notebook would show.

The thumbnail of an example is one panel of one of its figures. A comment in the block of that figure names the panel::

    # mkdocs_gallery_thumbnail_panel = 2

It is the panel's number in ``figure.axes``; without such a comment it is the first panel. mkdocs-gallery makes the
thumbnail from the first image of an example, so the first image is the panel, and the figures of the page follow it.
"""

import re

import diffusers
import numpy as np
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mkdocs_gallery.scrapers import figure_md_or_html
from PIL import Image, ImageOps

SIDE = 280  # of a thumbnail, in pixels: thumbnail_size in mkdocs.yml
PANEL = re.compile(r"^# mkdocs_gallery_thumbnail_panel = (\d+)$", re.MULTILINE)

for library in (diffusers, transformers):  # what they print while loading is not part of a page
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()


def panel(figure, number, side=SIDE):
    """One panel of a figure as a square picture: an image without its labels, any other plot with them."""
    ax, before, dpi = figure.axes[number], figure.canvas, figure.dpi
    canvas = FigureCanvasAgg(figure)

    def extent():
        """Where the panel lies on the canvas, once the figure is laid out."""
        canvas.draw()
        box = ax.get_window_extent() if ax.images else ax.get_tightbbox(canvas.get_renderer())
        return box.frozen()

    box = extent()
    figure.set_dpi(dpi * max(1.0, side / min(box.width, box.height)))
    box = extent()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    figure.set_dpi(dpi)
    figure.set_canvas(before)
    edges = (box.x0, drawn.height - box.y1, box.x1, drawn.height - box.y0)
    return ImageOps.pad(drawn.crop(tuple(round(edge) for edge in edges)), (side, side), color="white")


def last_figure(block, script):
    """The figure a block ends with, saved as a picture; nothing if it ends with something else."""
    found = script.run_vars.example_globals
    figure = found.get("___")
    if not isinstance(figure, Figure) or figure is found.get("___shown"):
        return ""
    found["___shown"] = figure
    paths = script.run_vars.image_path_iterator
    if not len(paths):
        panel(figure, 0).save(next(paths))
    if marked := PANEL.search(block[1]):
        panel(figure, int(marked[1])).save(script.get_image_path(1))
    path = next(paths)
    figure.savefig(path, dpi=150)
    return figure_md_or_html([path], script)


conf = {"image_scrapers": (last_figure,)}
