"""The report of a run as a file: what it holds, that texts stay texts, its size, what it says of what is missing."""

from __future__ import annotations

import json
import pickle
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, LayoutGuidance, LossGuidance, Preview, Statistics, attach, only
from sdprobe.runs.hooks_of_run import hooks_of_run
from sdprobe.runs.report.film_of_run import films_of
from sdprobe.runs.report.heat_tiles import HeatTiles
from sdprobe.runs.report.prompt_pieces import pieces_of
from sdprobe.runs.report.report_content import PICTURE_BYTES, content_of
from sdprobe.runs.report.word_maps_of_run import word_maps
from tests.families import ALL, ASKED, FAMILIES
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

NASTY = 'a "red" <script>alert(1)</script> circle & </script><!-- star'


class Page(HTMLParser):
    """The tags, the text outside of scripts and styles, and the content of each script."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.said, self.inside, self.addresses = [], [], [], None, []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.said).split())
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag if tag in ("script", "style") else self.inside
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None if tag == self.inside else self.inside

    def handle_data(self, text):
        if self.inside == "script":
            self.scripts[-1] += text
        elif self.inside is None:
            self.said.append(text)


def report_of(result, tmp_path):
    return Page(result.report(tmp_path / "run.html"))


def tiles_of(data):
    """Every tile of a page, by its number."""
    found = {}
    for sheet in data["sheets"]:
        grey = np.asarray(Image.open(BytesIO(b64decode(sheet["png"]))))
        h, w = sheet["height"], sheet["width"]
        for i, number in enumerate(np.frombuffer(b64decode(sheet["numbers"]), "<i4")):
            y, x = divmod(i, sheet["across"])
            found[int(number)] = grey[y * h : (y + 1) * h, x * w : (x + 1) * w]
    return found


def test_every_map_is_in_the_page_as_it_was_recorded(tiny, tmp_path):
    maps = AttentionMaps(keep=("step", "layer", "head"))
    result = run(tiny, maps, prompt="a red circle and a blue circle", images_per_prompt=2)
    page = report_of(result, tmp_path)
    tiles = tiles_of(page.data)
    prompt = result.prompts[0]
    pieces = pieces_of(prompt)
    seen = 0
    for image in (0, 1):
        own = page.data["images"][image]["maps"][0]
        axes = [own["axes"][name]["values"] for name in ("step", "layer", "head")]
        for number, (packed_tiles, packed_ranges) in own["words"].items():
            if int(number) >= len(pieces):
                continue
            piece = pieces[int(number)]
            numbers = np.frombuffer(b64decode(packed_tiles), "<i4").reshape([len(axis) for axis in axes])
            ranges = np.frombuffer(b64decode(packed_ranges), "<f4").reshape(*numbers.shape, 2)
            for at in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (2, 2, 1)]:
                step, layer, head = (axis[i] for axis, i in zip(axes, at, strict=True))
                heat = result[maps].heat_map(piece.word, piece.occurrence, image, step=step, layer=layer, head=head)
                low, high = ranges[at]
                again = low + tiles[numbers[at]] / 255 * (high - low)
                assert again.shape == tuple(heat.values.shape)
                assert np.abs(again - heat.values.numpy()).max() <= 0.51 / 255 * (high - low) + 1e-9
                seen += 1
    assert seen == 2 * 7 * 4  # "circle" and "a" occur twice, and each occurrence has its own maps


def test_no_tile_is_held_twice(tiny, tmp_path):
    one = report_of(run(tiny, AttentionMaps()), tmp_path)
    two = report_of(run(tiny, AttentionMaps(), AttentionMaps(rows="both")), tmp_path)
    own = [tile.tobytes() for tile in tiles_of(two.data).values()]
    assert len(set(own)) == len(own)
    assert len(two.data["images"][0]["maps"]) == 3
    assert {tile.tobytes() for tile in tiles_of(one.data).values()} <= set(own)


def test_values_that_are_not_finite_have_no_tile():
    assert HeatTiles().add(np.array([[1.0, np.nan]])).tile == -1


@pytest.mark.parametrize("prompt", [NASTY, "红色的圆", "دائرة حمراء", "", "a \x00\x07 circle", "' \" {{ 7 * 7 }}"])
def test_texts_stay_texts(tiny, tmp_path, prompt):
    page = report_of(run(tiny, AttentionMaps(), prompt=prompt, negative_prompt=prompt), tmp_path)
    assert page.tags.count("script") == 2
    assert page.scripts[1].strip().startswith('"use strict"')
    for part in re.findall(r"[a-z\d]{2,}|[\u0600-\u9fff]+", prompt):
        assert part in page.text.replace(" ", "")


def test_nothing_is_fetched(tiny, tmp_path):
    page = report_of(run(tiny, AttentionMaps(), Preview(), Statistics()), tmp_path)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)


def test_all_that_is_missing_is_said(tiny, tmp_path):
    bare = report_of(run(tiny), tmp_path).text
    assert "There are no heat maps" in bare
    assert "add sdprobe.Preview()" in bare
    assert "There are no curves" in bare
    page = report_of(
        run(tiny, LatentRecorder(), AttentionMaps(words=["red"]), Statistics(), guidance_scale=1.0), tmp_path
    )
    assert "LatentRecorder kept the latents, but only the model can make pictures of them" in page.text
    assert "AttentionMaps(words=['red']) did not record “a”, “circle”" in page.text
    assert "without guidance, the denoiser runs only with the prompt" in page.text
    axes = page.data["images"][0]["maps"][0]["axes"]
    assert (
        axes["step"]["said"] == "All steps together: they were not kept apart, as AttentionMaps(keep=('step',)) does."
    )
    half = report_of(run(tiny, Preview(keep=["denoised"])), tmp_path).text
    assert "Not kept: x_t, the noisy latents" in half
    cut = report_of(run(tiny, AttentionMaps(), prompt="a red circle " * 20), tmp_path).text
    assert "The text encoder does not read the end of it" in cut


def test_limited_hooks_show_their_own_images(tiny, tmp_path):
    maps, numbers = AttentionMaps(), Statistics()
    result = run(tiny, only(maps, rows=[1]), only(numbers, rows=[1]), prompt=["a red circle", "a star"])
    content = content_of(result)
    first, second = content.images
    assert first.maps == ()
    assert "did not record this image" in first.curves[0].said
    star = [number for number, piece in enumerate(second.prompts[0].pieces) if piece.word == "star"]
    assert set(star) <= set(second.maps[0].words)
    assert second.curves[0].panels[0].curves[0].values[0] == pytest.approx(result[numbers]["latents"].mean[0, 0].item())


def test_losses_have_curves(tiny, tmp_path):
    layout, loss = LayoutGuidance({"circle": (0.0, 0.0, 0.5, 0.5)}), LossGuidance(lambda x: x.mean((1, 2, 3)), 1.0)
    result = run(tiny, layout, loss, images_per_prompt=2)
    groups = content_of(result).images[1].curves
    assert [group.panels[0].title for group in groups] == ["Loss", "Loss"]
    assert groups[1].panels[0].curves[0].values == tuple(result[loss].losses[:, 1].tolist())
    assert "There are no curves" not in report_of(result, tmp_path).text


@pytest.mark.parametrize("family", ALL)
def test_every_family(family, tmp_path):
    model = sdprobe.load(FAMILIES[family]())
    hooks, asked = (AttentionMaps(keep="step"), Preview(), Statistics()), {"steps": 2} | ASKED.get(family, {})
    result = run(model, *hooks, prompt="a checkered circle", **asked)
    page = report_of(result, tmp_path)
    words = page.data["images"][0]["maps"][0]["words"]
    assert {"0", "2", "4"} <= set(words)  # the three words, of which one has several tokens
    assert "There is no film" not in page.text


def test_a_video_is_said_to_be_one(tmp_path):
    model = sdprobe.load(FAMILIES["LTX-Video"]())
    asked = {"frames": 7, "height": 32, "width": 64, "prompt": ["a star", "a circle"], "seed": [0, 1]}
    result = run(model, AttentionMaps(), Preview(), **asked)
    page = report_of(result, tmp_path)
    assert "2 videos of 7 frames of 64×32 pixels" in page.text
    assert "Video 2 of 2: “a circle”, seed 1" in page.text
    assert "4 of the 7 frames of the video are side by side, row by row: frames 0, 1, 3, 5, counted" in page.text
    assert "the 4 frames of 8×4 pixels are side by side" in page.text
    assert "mage 1" not in page.text
    assert {maps["frames"] for image in page.data["images"] for maps in image["maps"]} == {4}


def test_an_unpickled_run_has_the_same_report(tiny, tmp_path):
    result = run(tiny, AttentionMaps(keep="step"), Preview(), Statistics())
    again = pickle.loads(pickle.dumps(result))
    here, there = result.report(tmp_path / "here.html"), again.report(tmp_path / "there.html")
    assert here.read_bytes() == there.read_bytes()


def test_an_attached_run(tmp_path):
    pipe = stable_diffusion()
    with attach(pipe, [AttentionMaps()]) as attached:
        with pytest.raises(ValueError, match="has not begun"):
            attached.report(tmp_path / "early.html")
        pipe(
            prompt_embeds=torch.zeros(1, 16, pipe.text_encoder.config.hidden_size),
            num_inference_steps=2,
            guidance_scale=1,
        )
    page = report_of(attached, tmp_path)
    assert "prompt_embeds instead of a text" in page.text
    assert "seed not known" in page.text


def test_the_usual_run_is_small(embedded, tmp_path):
    result = sdprobe.sample(
        embedded, "a red circle left of a blue square", hooks=[AttentionMaps(), Preview(), Statistics()], steps=30,
        guidance_scale=5.0, seed=4, progress=False,
    )  # fmt: skip
    assert result.report(tmp_path / "run.html").stat().st_size < 3e6


@pytest.mark.parametrize("budget", [5e4, 2e5, 1e6])
def test_maps_are_thinned_to_their_budget(tiny, budget):
    maps = AttentionMaps(keep=("step", "layer", "head"))
    result = run(tiny, maps, prompt="a red circle and a blue star", steps=20)
    tiles, pieces = HeatTiles(), pieces_of(result.prompts[0])
    shown = word_maps(result[maps], 0, "cond", pieces, tiles, budget)
    kept = sum(len(sheet.png) for sheet in tiles.sheets())
    kept += sum(len(own.tiles) + len(own.ranges) for own in shown.words.values())
    steps = shown.axes[0]
    assert steps.total == 20
    if budget == 1e6:
        assert (steps.said, steps.values) == ("", (None, *range(20)))
        return
    assert 0.3 * budget < kept < budget
    assert (steps.values[:2], steps.values[-1]) == ((None, 0), 19)
    shares = f"{len(steps.values) - 1} of the 20 recorded steps, evenly chosen: all would make this file too large."
    assert steps.said == shares


def test_films_are_thinned_to_their_budget(tiny):
    preview = Preview()
    result = run(tiny, preview, steps=20, images_per_prompt=2)
    for budget in (8_000, 16_000, 1_000_000):
        films, _ = films_of(hooks_of_run(result), 2, budget)
        (film,) = films[1]
        assert sum(len(source) for own in films for strip in own[0].strips for source in strip.sources) < budget
        assert (film.indices[0], film.indices[-1]) == (0, 19)
        if budget == 1_000_000:
            assert (film.indices, film.said) == (tuple(range(20)), "")
        else:
            assert film.said.startswith(f"{len(film.indices)} of the 20 steps kept, evenly chosen")
            assert 2 < len(film.indices) < 20


def test_large_pictures_stay_in_their_budget_and_it_is_said(tiny, tmp_path):
    result = run(tiny, images_per_prompt=2)
    random = np.random.default_rng(0)
    result.images = [Image.fromarray(random.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)) for _ in range(2)]
    path = result.report(tmp_path / "run.html")
    assert path.stat().st_size < PICTURE_BYTES + 200_000
    assert "The picture is embedded as JPEG of quality 90; run.images has it exactly" in Page(path).text


def test_paths(tiny, tmp_path):
    result = run(tiny)
    assert result.report(str(tmp_path / "run.HTML")) == tmp_path / "run.HTML"
    with pytest.raises(ValueError, match=r"give a path that ends in .html, such as 'run.pdf.html'"):
        result.report(tmp_path / "run.pdf")
    with pytest.raises(IsADirectoryError, match="is a folder: give the file to write"):
        result.report(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        result.report(tmp_path / "no" / "run.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run.HTML"]
