"""What the README and the documentation print is what happens.

Every Python block is run: those of one page in one namespace, in order. A block in doctest form is held to the output
it shows. Of any other, what it prints must be in the ``text`` block that follows it, if one does; ``...`` stands for
anything. What needs a GPU or the network is marked ``py``: it is compiled, and its calls are held to the signatures.
Commands are run where they are ours, and targets of make exist.
"""

import ast
import contextlib
import doctest
import inspect
import io
import os
import re
import runpy
import shlex
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import matplotlib
import pytest

import sdprobe
import sdprobe.plot
import sdprobe.shapes
import sdprobe.testing
from sdprobe.cli import main
from sdprobe.core import registry
from sdprobe.model import loading

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
PAGES += sorted(p for p in (ROOT / "docs").rglob("*.md") if p.relative_to(ROOT).parts[1] != "gallery")
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page):
    """Each Python block of a page: its line, its source, and the output shown below it or None."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 2, m.group(1), m.group(2)) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_session", {})  # the names a page gives are its own, and so are its families
    monkeypatch.setattr(loading, "FAMILIES", list(loading.FAMILIES))
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


def fenced(*languages):
    """The page and the text of every block in these languages."""
    found = [(p, m.group(2)) for p in PAGES for m in FENCE.finditer(p.read_text("utf-8")) if m.group(1) in languages]
    return [pytest.param(text, id=f"{page.relative_to(ROOT)}-{i}") for i, (page, text) in enumerate(found)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_is_of_a_kind_that_is_tried(page):
    text = page.read_text("utf-8")
    assert {m.group(1) for m in FENCE.finditer(text)} <= {"python", "text", "py", "sh", "toml"}
    assert sum(m.group(1) == "python" for m in FENCE.finditer(text)) == len(blocks(page)), "a block that is not run"


@pytest.mark.parametrize("source", fenced("py"))
def test_what_needs_a_gpu_calls_what_there_is(source):
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func).removeprefix("sdprobe.")
        if name in sdprobe.__all__:
            inspect.signature(getattr(sdprobe, name)).bind(*call.args, **{k.arg: k.value for k in call.keywords})


@pytest.mark.parametrize("source", fenced("sh"))
def test_commands(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in source.splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "make":
            assert {word for word in words if "=" not in word} <= targets
        elif program == "sdprobe":
            assert main([*words, "--quiet"]) == 0
            assert all((tmp_path / path).exists() for path in capsys.readouterr().out.split())


@pytest.mark.parametrize("source", fenced("toml"))
def test_tables_of_settings_can_be_read(source):
    assert tomllib.loads(source)


LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")


def links(text):
    """The relative links of a page."""
    return [m.group(1) for m in LINK.finditer(FENCE.sub("", text))]


@pytest.fixture(scope="module")
def tracked():
    """Every file of the repository, and every folder that holds one."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [Path(name) for name in listed.split("\0") if name]
    return {*files, *(folder for file in files for folder in file.parents)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_point_to_files_of_the_repository(page, tracked):
    """So they are followed on a code host and in a bare clone, where no site has been built."""
    for target in links(page.read_text("utf-8")):
        path = Path(os.path.relpath(page.parent / target, ROOT))
        assert path in tracked, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_that_pages_name_exist(page, tracked):
    for name in re.findall(r"`((?:sdprobe|tests|docs|examples)/[\w./-]+)`", page.read_text("utf-8")):
        assert "_NN_" in name or Path(name) in tracked, f"{page.name} names {name}"


def test_links_between_examples(tracked):
    for example in (ROOT / "examples").glob("plot_*.py"):
        for target in links(example.read_text("utf-8")):
            assert Path("examples", target) in tracked, f"{example.name} links to {target}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent != ROOT], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_the_site_stay_within_it(page):
    """In the site, links to examples lead to their pages in the gallery, which are made when it is built."""
    to_gallery = runpy.run_path(str(ROOT / "docs" / "links.py"))["to_gallery"]
    name = "gallery/index.md" if page.parent.name == "examples" else page.relative_to(ROOT / "docs").as_posix()
    made = {f"gallery/{path.stem}.md" for path in (ROOT / "examples").glob("plot_*.py")} | {"gallery/index.md"}
    for target in links(to_gallery(page.read_text("utf-8"), name)):
        path = os.path.normpath(os.path.join(os.path.dirname(name), target))
        assert path in made or (ROOT / "docs" / path).is_file(), f"{name} links to {target}"


def test_links_to_examples_become_links_to_the_gallery():
    to_gallery = runpy.run_path(str(ROOT / "docs" / "links.py"))["to_gallery"]
    text = "[a](../../examples/plot_41_own_hook.py), [b](../../examples/README.md), [c](rows.md)"
    inside = "[a](../gallery/plot_41_own_hook.md), [b](../gallery/index.md), [c](rows.md)"
    assert to_gallery(text, "concepts/x.md") == inside
    assert to_gallery("[a](../examples/plot_10_heat_maps.py#iou)", "x.md") == "[a](gallery/plot_10_heat_maps.md#iou)"
    assert to_gallery("[a](plot_10_heat_maps.py)", "gallery/index.md") == "[a](plot_10_heat_maps.md)"
    assert to_gallery("[a](./plot_10_heat_maps.py)", "gallery/plot_10_heat_maps.md") == "[a](./plot_10_heat_maps.py)"


def test_every_public_name_is_in_the_api():
    pages = [page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md")]
    listed = [name for text in pages for name in re.findall(r"^::: sdprobe\.([\w.]+)$", text, re.MULTILINE)]
    modules = (sdprobe.clip, sdprobe.losses, sdprobe.plot, sdprobe.shapes, sdprobe.testing)
    modules += (sdprobe.attributions, sdprobe.experiments, sdprobe.experiments.measures)
    public = [f"{module.__name__.removeprefix('sdprobe.')}.{name}" for module in modules for name in module.__all__]
    assert sorted(listed) == sorted([*sdprobe.__all__, "open", *public])


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name.startswith("gallery/") or re.search(rf"[-:] {re.escape(name)}$", nav, re.MULTILINE), name


def test_the_gallery_lists_every_example_by_its_title():
    text = (ROOT / "examples" / "README.md").read_text("utf-8")
    titles = {path.name: path.read_text("utf-8").split("\n")[1] for path in (ROOT / "examples").glob("plot_*.py")}
    assert {m[2]: f"# {m[1]}" for m in re.finditer(r"\[([^]]+)\]\((plot_\w+\.py)\)", text)} == titles


@pytest.mark.parametrize("page", ["README.md", "docs/concepts/hooks.md"])
def test_every_hook_is_listed(page):
    ours = {e.name for e in entry_points(group="sdprobe.hooks") if e.value.startswith("sdprobe.")}
    assert set(re.findall(r"^\| `([\w-]+)` \|", (ROOT / page).read_text(), re.MULTILINE)) == ours


def test_citation_has_the_version():
    assert f"version: {sdprobe.__version__}\n" in (ROOT / "CITATION.cff").read_text()
