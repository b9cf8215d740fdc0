"""A hook of mkdocs: links to examples, as they are in the repository, become links to their pages in the gallery.

In the repository a page links to the file of an example, `../examples/plot_10_heat_maps.py`, which a code host shows.
In the site the page of that example is `gallery/plot_10_heat_maps.md`, which is made when the site is built.
"""

import re

EXAMPLE = re.compile(r"\]\(((?:\.\./)*)\.\./examples/(?:(plot_\w+)\.py|README\.md)((?:#[\w-]+)?)\)")
BESIDE = re.compile(r"\]\((plot_\w+)\.py\)")


def to_gallery(markdown, page):
    """The text of a page, `page` its path below docs/, with its links to examples as they are in the site."""
    if page == "gallery/index.md":  # examples/README.md, which stands beside the examples
        return BESIDE.sub(r"](\1.md)", markdown)
    return EXAMPLE.sub(lambda m: f"]({m[1]}gallery/{m[2] or 'index'}.md{m[3]})", markdown)


def on_page_markdown(markdown, page, **given):
    """Called by mkdocs for every page."""
    return to_gallery(markdown, page.file.src_uri)
