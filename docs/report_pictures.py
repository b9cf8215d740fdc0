"""Make docs/images/report-*.png: the top of a report, in light and dark, at two widths. It needs a Chromium."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import sdprobe

IMAGES = Path(__file__).resolve().parent / "images"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))

maps = sdprobe.AttentionMaps(keep=("step", "layer", "head"))
hooks = [maps, sdprobe.Preview(), sdprobe.Statistics()]
run = sdprobe.sample(
    sdprobe.load(), "a red circle left of a blue square", hooks=hooks, steps=30, guidance_scale=5.0, seed=4
)
report = run.report(Path(tempfile.mkdtemp()) / "report.html")
with sync_playwright() as running:
    browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
    for scheme in ("light", "dark"):
        for width, height in ((1400, 1500), (400, 1500)):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.as_uri())
            page.get_by_role("button", name="circle", exact=True).focus()
            page.wait_for_selector(".heat[data-shown]")
            page.screenshot(path=IMAGES / f"report-{scheme}-{width}.png")
            page.close()
    browser.close()
