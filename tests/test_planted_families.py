"""Heat maps of every family on planted truth: a chosen token attends to a chosen patch, at every kind of site."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import ASKED, FAMILIES, flux, stable_diffusion_3
from tests.planted import latents_for
from tests.planted_families import Marked, planted

CELLS = [(1, 2), (3, 0)]
SETTINGS = {"steps": 2, "guidance_scale": 4.0, "progress": False}
OF_JOINT = ("Flux.1", "Stable Diffusion 3", "Qwen-Image", "AuraFlow", "Lumina 2", "Z-Image", "Krea 2")
JOINT = {name: make for name, make in FAMILIES.items() if name.startswith(OF_JOINT)}


def masks(cells=CELLS, size=(8, 12)):
    """On the latents, the 2 × 2 places of each cell of a grid of half the size."""
    found = []
    for row, column in cells:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
        found.append(mask)
    return found


def run_of(model, word, *hooks, encoder=None, prompt="a red circle"):
    """A run in which one token of a word is marked, and each picture's latents are positive in one cell."""
    prompt = [prompt, "a red circle of a star"]
    positions = []
    for read in map(model.read, prompt):  # padded on the left, they stand at other positions
        own = read.positions(word)
        positions.append(own[0] if encoder is None else next(p for p in own if p in read.parts[encoder]))
    noise, factor = latents_for(masks()), model.scale_factor
    settings = SETTINGS | {"height": 8 * factor, "width": 12 * factor}
    return sdprobe.sample(model, prompt, hooks=[Marked(*positions), *hooks], latents=noise, **settings)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "frames" not in ASKED.get(name, {})])
def test_the_planted_token_s_heat_map_is_the_planted_patch(family):
    model = planted(FAMILIES[family]())
    encoders = dict.fromkeys(name for names in model.token_axis for name in names[:1])
    for encoder in encoders:
        maps = sdprobe.AttentionMaps(keep=("layer", "head"))
        run = run_of(model, "circle", maps, encoder=encoder)
        assert run.coverage.missed == {}
        sites = {name for name, kind in run.coverage.sites.items() if kind in ("cross", "joint")}
        assert {key.layer for key in run[maps].sums} == sites == set(run.coverage.seen)
        for image, mask in enumerate(masks()):
            for layer in sites:
                values = run[maps].heat_map("circle", image=image, layer=layer, encoder=encoder).values
                truth = torch.nn.functional.interpolate(mask[None, None].float(), values.shape, mode="area")[0, 0]
                if truth.max() == 1:  # where the grid is too coarse, a cell holds more than the patch
                    assert torch.equal(values > 0.5, truth == 1)
                    assert torch.allclose(values, truth, atol=0.1)
                    other = run[maps].heat_map("red", image=image, layer=layer).values
                    assert other[truth == 1].max() < 0.1
            whole = run[maps].heat_map("circle", image=image, encoder=encoder)
            assert whole.resize(tuple(mask.shape)).iou(mask) == 1


@pytest.mark.parametrize("family", JOINT)
def test_the_four_directions(family):
    """Picture and token look at each other; everything adds up to one over the whole axis."""

    class Directions(sdprobe.Observer):
        kinds = ("joint",)

        def start(self, run):
            self.seen = {}

        def attention(self, attn, site):
            if all(row.role == "uncond" for row in site.step.rows):
                return  # the pipeline's call for the negative prompts alone
            places = site.grid[0] * site.grid[1]
            assert site.grid == (4, 6)
            axis = range(attn.key.shape[-2])
            others = sorted({*axis} - {*axis[site.image]} - {*axis[site.text]})  # padding between image and text
            assert len(axis[site.image]) == places
            layout = site.run.model.layout(site.run.settings)
            assert len(others) == layout.beside + layout.registers
            whole = attn.probs(rows="cond")
            parts = {
                (a, b): attn.probs(rows="cond", queries=getattr(site, a), tokens=getattr(site, b))
                for a in ("image", "text")
                for b in ("image", "text")
            }
            for (a, b), part in parts.items():
                assert torch.allclose(part, whole[:, :, getattr(site, a)][..., getattr(site, b)], atol=1e-2)
            for a in ("image", "text"):
                total = parts[a, "image"].sum(-1) + parts[a, "text"].sum(-1)
                total = total + whole[:, :, getattr(site, a)][..., others].sum(-1)
                assert torch.allclose(total, torch.ones_like(total), atol=1e-2)
            self.seen[site.name] = {ab: part.mean(1) for ab, part in parts.items()}

    model, look = planted(JOINT[family]()), Directions()
    run = run_of(model, "circle", look)
    position = run.prompts[0].positions("circle")[0]
    assert run[look].seen
    for parts in run[look].seen.values():
        for image, (row, column) in enumerate(CELLS):
            patch = row * 6 + column
            toward = parts["image", "text"][image]
            assert toward[patch].argmax() == position
            assert toward[patch, position] > 0.9
            assert toward[:, position].argmax() == patch
            back = parts["text", "image"][image]
            assert back[position].argmax() == patch
            assert back[position, patch] > 0.9
            assert parts["image", "image"][image][patch].sum() < 0.1
            assert parts["text", "text"][image][position].sum() < 0.1


def test_the_text_s_parts_are_told_apart():
    """Stable Diffusion 3 is shown CLIP's reading of the prompt and then T5's, and a word stands in both."""
    model = planted(stable_diffusion_3())
    prompt = model.read("a checkered circle")
    assert prompt.words["checkered"] == ((2, 3, 17, 18),)
    assert prompt.of("text_encoder") == prompt.of("text_encoder_2") == range(16)
    assert prompt.of("text_encoder_3") == range(16, 16 + 256)
    for encoder, other in (("text_encoder", "text_encoder_3"), ("text_encoder_3", "text_encoder")):
        maps = sdprobe.AttentionMaps()
        run = run_of(model, "circle", maps, encoder=encoder)
        marked, plain = (run[maps].heat_map("circle", encoder=name).values for name in (encoder, other))
        both = run[maps].heat_map("circle").values
        assert marked.max() > 0.9
        assert plain.max() < 0.1
        assert torch.allclose(both, (marked + plain) / 2)
    with pytest.raises(ValueError, match="text_encoder_3"):
        run[maps].heat_map("circle", encoder="text_encoder_4")


def test_a_site_gives_the_columns_of_tokens():
    class Columns(sdprobe.Observer):
        kinds = ("joint",)

        def start(self, run):
            self.found = []

        def attention(self, attn, site):
            all_, some = site.tokens(), site.tokens([0, 3])
            self.found.append((all_ == list(range(site.text.start, site.text.stop)), some, site.text.start))

    for make, first in ((flux, 0), (stable_diffusion_3, 16)):
        look = Columns()
        run = sdprobe.sample(sdprobe.load(make()), "a", hooks=[look], steps=1, height=16, width=16, progress=False)
        assert set(map(repr, run[look].found)) == {repr((True, [first, first + 3], first))}


def test_self_attention_has_no_text():
    class Asks(sdprobe.Observer):
        kinds = ("self",)

        def attention(self, attn, site):
            site.tokens()

    with pytest.raises(ValueError, match="self-attention"):
        sdprobe.sample(sdprobe.load(stable_diffusion_3()), "a", hooks=[Asks()], steps=1, progress=False)
