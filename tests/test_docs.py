"""What the README and the documentation print is what happens.

Every Python block is run: those of one page in one namespace, in order. A block in doctest form is held to the output
it shows. Of any other, what it prints must be in the ``text`` block that follows it, if one does; ``...`` stands for
anything.
"""

import contextlib
import doctest
import io
import re
from importlib.metadata import entry_points
from pathlib import Path

import matplotlib
import pytest

import sdprobe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "gallery" not in p.parts)]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page):
    """Each Python block of a page: its line, its source, and the output shown below it or None."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 2, m.group(1), m.group(2)) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names = {"__name__": "__main__"}
    for line, source, shown in blocks(page):
        if source.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(source, names, page.name, str(page), line - 1)
            complaints = []
            # without clear_globs the names stay for the next block
            doctest.DocTestRunner(optionflags=FLAGS).run(test, out=complaints.append, clear_globs=False)
            names.update(test.globs)
            assert not complaints, "".join(complaints)
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (line - 1) + source, str(page), "exec"), names)
            if shown is not None:
                same = doctest.OutputChecker().check_output(shown, printed.getvalue(), FLAGS)
                assert same, f"{page.name}, line {line}: shown\n{shown}\nprinted\n{printed.getvalue()}"


def test_links_between_pages():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            generated = "gallery" in target
            assert generated or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_in_the_api():
    listed = set(re.findall(r"^::: sdprobe\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert listed == set(sdprobe.__all__)


@pytest.mark.parametrize("page", ["README.md", "docs/concepts/hooks.md"])
def test_every_hook_is_listed(page):
    ours = {e.name for e in entry_points(group="sdprobe.hooks") if e.value.startswith("sdprobe.")}
    assert set(re.findall(r"^\| `([\w-]+)` \|", (ROOT / page).read_text(), re.MULTILINE)) == ours


def test_citation_has_the_version():
    assert f"version: {sdprobe.__version__}\n" in (ROOT / "CITATION.cff").read_text()
