"""The report in a real browser, opened from a file: by pointer, by keyboard, in light and dark, at two widths.

It needs playwright from PyPI, without a browser of its own, and a Chromium on the path, such as Debian's.
"""

from __future__ import annotations

import re
import shutil
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, Preview, Statistics
from sdprobe.plot.tiled import tiled
from tests.families import FAMILIES
from tests.laws.strategies import run

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no browser: apt-get install chromium", allow_module_level=True)

QUIET = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
PROMPT = "a red circle left of a blue square"
NASTY = '<script>document.title = "run"</script> "circle" </script><!-- star &amp; <b>'
COLOURS = (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round()

# As the library's figures draw a map over a picture.
OPACITY = np.round(255 * (np.arange(256) / 255) ** 0.7)

PIXELS = """canvas => {
  const { width, height } = canvas;
  return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
}"""


@pytest.fixture(scope="module")
def maps():
    return AttentionMaps(keep=("step", "layer"))


@pytest.fixture(scope="module")
def result(embedded, maps):
    hooks = [maps, Preview(), Statistics(), AttentionMaps(rows="uncond", words=["star"])]
    return sdprobe.sample(
        embedded, PROMPT, negative_prompt="a star", hooks=hooks, steps=6, guidance_scale=5.0, seed=4, progress=False
    )


@pytest.fixture(scope="module")
def video():
    """The heat maps of a run of a video, and the run."""
    model = sdprobe.load(FAMILIES["Wan 2.1"]())
    result = run(model, own := AttentionMaps(), prompt="a star circle", frames=5, height=16, width=32, steps=1)
    return result[own].heat_map, result


@pytest.fixture(scope="module")
def reports(result, video, tiny, tmp_path_factory):
    """A report with all, one of prompts that are no English words, one of a run without hooks, and one of a video."""
    folder = tmp_path_factory.mktemp("reports")
    several = run(
        tiny,
        AttentionMaps(),
        Preview(keep=["denoised"]),
        prompt=[NASTY, "红色的圆", "دائرة حمراء"],
        negative_prompt=NASTY,
    )
    bare = run(tiny, LatentRecorder())
    made = {"all": result, "several": several, "bare": bare, "video": video[1]}
    return {name: own.report(folder / f"{name}.html") for name, own in made.items()}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, reports):
    """Opens a report; whatever the browser says of it, or asks for beside the file, fails the test at its end."""
    wrong, contexts = [], []

    def open_report(name="all", **options):
        address = reports[name].as_uri()
        contexts.append(browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
        page.on("request", lambda asked: asked.url.startswith(("data:", address)) or wrong.append(asked.url))
        page.goto(address)
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert wrong == []


def word(page, text, which=0):
    return page.locator(".word:visible", has_text=re.compile(f"^{re.escape(text)}$")).nth(which)


def shown(page):
    """The pixels of the map that the page draws. It is drawn once its sheet is unpacked, soon after it is asked for."""
    playwright.expect(page.locator(".image:visible .heat")).to_be_visible()
    page.wait_for_timeout(60)
    width, height, pixels = page.locator(".heat:visible").evaluate(PIXELS)
    return np.array(pixels).reshape(height, width, 4)


def assert_is_map(pixels, values, low=None, high=None):
    """Whether what is drawn is a map, in the colours of its range or of a given one."""
    values = values.numpy()
    low, high = values.min() if low is None else low, values.max() if high is None else high
    rounded = 1 if low == values.min() and high == values.max() else 2  # in another range, a level is rounded twice
    levels = np.clip(np.round(255 * (values - low) / (high - low)), 0, 255).astype(int)
    assert pixels.shape[:2] == values.shape
    drawn = np.abs(OPACITY[None] - pixels[..., 3].reshape(-1, 1)).argmin(1).reshape(values.shape)
    assert np.abs(drawn - levels).max() <= rounded
    clear = levels > 128  # of colours that are nearly transparent, a canvas keeps little
    assert np.abs(COLOURS[levels] - pixels[..., :3])[clear].max() <= 6


def test_a_word_shows_its_own_map_when_pointed_at(opened, result, maps):
    page = opened()
    assert page.locator(".heat:visible").count() == 0
    seen = []
    for text in ("red", "circle", "square", "<pad>"):
        word(page, text).hover()
        seen.append(shown(page))
        assert_is_map(seen[-1], result[maps].heat_map(text).values)
        assert f"“{text}”" in page.locator(".state").inner_text()
    assert len({pixels.tobytes() for pixels in seen}) == 4
    for which in (0, 1):
        word(page, "a", which).hover()
        assert_is_map(shown(page), result[maps].heat_map("a", which).values)
    assert "occurrence 2 of 2" in page.locator(".state").inner_text()


def test_a_word_shows_its_map_when_focused_by_keyboard(opened, result, maps):
    page = opened()
    while page.evaluate("document.activeElement.textContent") != "red":
        page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert_is_map(shown(page), result[maps].heat_map("red").values)
    page.keyboard.press("ArrowRight")
    assert_is_map(shown(page), result[maps].heat_map("circle").values)
    assert word(page, "circle").get_attribute("aria-pressed") == "true"
    most = int(result[maps].heat_map("circle").values.argmax())
    label = page.locator(".heat").get_attribute("aria-label")
    assert f"row {most // 16 + 1} and column {most % 16 + 1} of 16×16" in label
    page.keyboard.press("ArrowLeft")
    assert_is_map(shown(page), result[maps].heat_map("red").values)
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert_is_map(shown(page), result[maps].heat_map("a", 0).values)
    page.keyboard.press("Escape")
    assert page.locator(".heat").is_hidden()
    assert page.locator(".state").inner_text().startswith("The picture of")


def test_the_maximum_of_a_video_is_at_a_place_of_a_frame(opened, video):
    page, heat = opened("video"), video[0]
    for text in ("star", "circle"):
        word(page, text).hover()
        assert_is_map(shown(page), torch.from_numpy(tiled(heat(text).values.numpy())))
        frames, height, width = heat(text).values.shape
        frame, row, column = np.unravel_index(int(heat(text).values.argmax()), (frames, height, width))
        of = f"of latent frame {frame + 1} of 3, in row {row + 1} and column {column + 1} of {height}×{width}."
        assert of in page.locator(".state").inner_text()
        assert "Heat map over the video. " in page.locator(".heat:visible").get_attribute("aria-label")


def test_a_tap_shows_the_map_and_a_button_the_picture_alone(opened, result, maps):
    page = opened(has_touch=True, viewport={"width": 400, "height": 800})
    word(page, "square").tap()
    assert_is_map(shown(page), result[maps].heat_map("square").values)
    page.locator(".alone").tap()
    assert page.locator(".heat").is_hidden()


def test_sliders_show_another_step_and_layer(opened, result, maps):
    page, own = opened(), result[maps]
    word(page, "circle").hover()
    step, layer = page.locator("#step-0"), page.locator("#layer-0")
    step.fill("3")
    every = [own.heat_map("circle", step=i).values for i in range(6)]
    low, high = min(float(own.min()) for own in every), max(float(own.max()) for own in every)
    assert_is_map(shown(page), every[2], low, high)
    page.get_by_label("each map its own").check()
    assert_is_map(shown(page), every[2])
    name = own.sums.kept_apart()["layer"][1]
    layer.fill("2")
    assert_is_map(shown(page), own.heat_map("circle", step=2, layer=name).values)
    assert layer.get_attribute("aria-valuetext") == f"layer {name}"
    step.focus()
    page.keyboard.press("ArrowRight")
    assert_is_map(shown(page), own.heat_map("circle", step=3, layer=name).values)
    assert page.locator(".axis[data-axis=head] .note").inner_text().startswith("All heads together: they were not kept")
    assert page.locator(".axis[data-axis=head] input").is_hidden()
    page.get_by_label("Smooth between").check()
    assert page.locator(".heat").evaluate("one => getComputedStyle(one).imageRendering") == "auto"


def test_another_recording_can_be_chosen(opened, result):
    page = opened()
    assert page.locator(".prompt").all_inner_texts() == [PROMPT, "a star"]
    page.get_by_label("Recording").select_option(index=1)
    word(page, "star").hover()
    assert_is_map(shown(page), result[result.records[3][0]].heat_map("star").values)
    word(page, "circle").hover()
    playwright.expect(page.locator(".state")).to_have_text("“circle”: this recording has no map of it.")
    assert page.locator(".heat").is_hidden()


def test_the_film_plays(opened, result):
    page = opened()
    preview = result[Preview]
    frames = page.locator(".frame")
    at = page.locator(".player input")
    at.fill("1")
    assert frames.nth(1).get_attribute("alt") == "Predicted x0 at step 1"
    pixels = frames.nth(1).evaluate(
        """async image => {
          await image.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        }"""
    )
    assert (np.array(pixels).reshape(16, 16, 4)[..., :3] == np.asarray(preview["denoised"][1][0])).all()
    at.fill("5")
    before = frames.nth(0).get_attribute("src")
    page.get_by_role("button", name="Play").click()
    playwright.expect(at).to_have_value("1")
    assert page.get_by_role("button", name="Pause").is_visible()
    assert frames.nth(0).get_attribute("src") != before
    page.get_by_role("button", name="Play").wait_for()
    assert at.input_value() == "5"


def test_the_code_is_copied(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    playwright.expect(page.locator(".copied")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".code code").inner_text()


def test_texts_stay_texts_in_any_script(opened):
    page = opened("several")
    assert page.title() == "3 prompts – a run of sdprobe"
    assert page.locator(".prompt:visible").first.inner_text() == NASTY
    assert page.locator(".prompt b, .prompt script").count() == 0
    word(page, "<script>").hover()
    shown(page)
    page.get_by_label("Image", exact=True).select_option(index=1)
    assert "".join(page.locator(".prompt:visible .word").all_inner_texts()).startswith("红色的圆")
    page.locator(".prompt:visible .word").nth(1).hover()
    shown(page)
    page.get_by_label("Image", exact=True).select_option(index=2)
    first, second = (page.locator(".prompt:visible .word").nth(i) for i in (0, 1))
    assert first.inner_text() == "دائرة"
    assert first.bounding_box()["x"] > second.bounding_box()["x"]  # it is read from the right
    first.focus()
    page.keyboard.press("ArrowLeft")
    assert second.get_attribute("aria-pressed") == "true"


def test_what_is_missing_is_said(opened):
    page = opened("bare")
    said = " ".join(page.locator(".missing:visible").all_inner_texts())
    for part in ("There are no heat maps", "There is no film: LatentRecorder kept the latents", "There are no curves"):
        assert part in said
    assert page.locator(".word, canvas:visible, svg, .film").count() == 0


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["all", "several", "bare"])
def test_nothing_is_wider_than_the_page(opened, name, width):
    page = opened(name, viewport={"width": width, "height": 900})
    for details in page.locator("details > summary:visible").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(colour).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = (part) => {
    const own = getComputedStyle(part).backgroundColor;
    return part.parentElement && parts(own)[3] === 0 ? under(part.parentElement) : own;
  };
  const found = [];
  for (const part of document.querySelectorAll("body *")) {
    const written = [...part.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!written || !part.checkVisibility() || part.closest("script, select")) continue;
    const style = getComputedStyle(part);
    const [a, b] = [light(part.closest("svg") ? style.fill : style.color), light(under(part))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), part.className, part.textContent.slice(0, 20)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_of_light_and_dark(opened, scheme):
    page = opened(color_scheme=scheme, reduced_motion="reduce")
    paper = {"light": "rgb(253, 252, 250)", "dark": "rgb(23, 23, 22)"}
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == paper[scheme]
    word(page, "circle").focus()
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert contrasts[0][0] >= 4.5, contrasts[:3]
    other = {"light": "dark", "dark": "light"}[scheme]
    page.get_by_label(other.capitalize()).check()
    assert page.evaluate(ground) == paper[other]
    assert page.evaluate(CONTRASTS)[0][0] >= 4.5
    page.get_by_label("System").check()
    assert page.evaluate(ground) == paper[scheme]


def test_every_control_has_a_name_and_headings_are_in_order(opened):
    page = opened()
    nameless = """[...document.querySelectorAll("input, select, button, [role=button], [role=region], svg[role=img]")]
      .filter(one => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")))
      .map(one => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("[...document.images].filter(one => !one.alt).length") == 0
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
