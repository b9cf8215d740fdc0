"""What mkdocs-gallery cannot be told in mkdocs.yml: how to find the figures of an example.

Its own scraper asks pyplot. sdprobe's figures are not registered there, so here the value of a block's last line is
taken: what a notebook would show.
"""

import diffusers
import transformers
from matplotlib.figure import Figure
from mkdocs_gallery.scrapers import figure_md_or_html

for library in (diffusers, transformers):  # what they print while loading is no part of the story
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()


def last_figure(block, script):
    """The figure a block ends with, saved as a picture; nothing if it ends with something else."""
    found = script.run_vars.example_globals
    figure = found.get("___")
    if not isinstance(figure, Figure) or figure is found.get("___shown"):
        return ""
    found["___shown"] = figure
    path = next(script.run_vars.image_path_iterator)
    figure.savefig(path, dpi=150)
    return figure_md_or_html([path], script)


conf = {"image_scrapers": (last_figure,)}
