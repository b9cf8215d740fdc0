"""The built site in a browser: nothing fails, nothing is fetched from elsewhere, the search finds.

    make docs
    SITE=site .venv/bin/python -m pytest tests/site -rs

It needs playwright from PyPI, without a browser of its own, and a Chromium on the path, such as Debian's.
"""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import pytest

if "SITE" not in os.environ:
    pytest.skip("no built site: run make docs, and name its folder in SITE", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no browser: apt-get install chromium", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ["SITE"]).resolve()
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if path.name != "404.html")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *said):
        pass


@pytest.fixture(scope="module")
def address():
    """The site, served on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A fresh page; whatever goes wrong on it, or is asked of another host, fails the test at its end."""
    wrong = []
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
    page.on("response", lambda answer: answer.status >= 400 and wrong.append(f"{answer.status}: {answer.url}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:", "blob:")) or wrong.append(f"from elsewhere: {request.url}")
        ),
    )
    yield page
    context.close()
    assert not wrong


def test_the_site_has_its_parts():
    assert {"index.html", "compare/index.html", "gallery/index.html", "api/index.html"} <= set(PAGES)
    concepts = {path.stem for path in (ROOT / "docs" / "concepts").glob("*.md")}
    assert {f"concepts/{name}/index.html" for name in concepts} <= set(PAGES)
    examples = {path.stem for path in (ROOT / "examples").glob("plot_*.py")}
    assert {f"gallery/{name}/index.html" for name in examples} <= set(PAGES)


@pytest.mark.parametrize("path", PAGES)
def test_page(page, address, path):
    page.goto(address + path, wait_until="load")
    assert page.title()
    assert page.locator("h1").count() >= 1
    broken = "[...document.images].filter(one => !(one.complete && one.naturalWidth > 0)).map(one => one.src)"
    assert page.evaluate(broken) == []
    for link in page.evaluate("[...document.links].map(one => one.href)"):
        if link.startswith(address):
            target = SITE / urlsplit(urldefrag(link).url).path.lstrip("/")
            assert target.is_file() or (target / "index.html").is_file(), link


def test_every_example_has_a_thumbnail_that_loads(page, address):
    page.goto(address + "gallery/", wait_until="load")
    shown = page.evaluate(
        "[...document.querySelectorAll('img[src*=thumb]')].map(one => [one.src, one.complete && one.naturalWidth])"
    )
    assert all(width > 50 for _, width in shown)
    for example in (ROOT / "examples").glob("plot_*.py"):
        assert any(example.stem in source for source, _ in shown), example.stem


def test_the_search_finds(page, address):
    page.goto(address, wait_until="load")
    page.locator("input.md-search__input").click()
    page.locator("input.md-search__input").press_sequentially("classifier-free guidance")
    page.wait_for_selector(".md-search-result__item a")
    found = page.evaluate("[...document.querySelectorAll('.md-search-result__item a')].map(one => one.href)")
    assert any("guidance" in link for link in found)
