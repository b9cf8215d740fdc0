"""Flux Kontext: pictures that the network is shown beside the one that it makes have places of their own."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import sdprobe
from sdprobe.stock_pipelines.pipeline_listener import attachable
from tests.families import flux
from tests.further_stock_pipelines import flux_kontext, flux_kontext_inpainting, on
from tests.planted import latents_for
from tests.planted_families import Marked, planted
from tests.stock_pipelines import Stock, attached, picture

PLACES, REFERENCE, TOKENS = 6 * 2, 8 * 4, 512
"""Of a picture of 24 × 8 pixels, of a reference picture of 32 × 16, and of the prompt."""
BLOCKS = ("transformer_blocks.0", "single_transformer_blocks.0")
SIZE = {"height": 24, "width": 8, "max_area": 24 * 8, "num_inference_steps": 2}


def kontext(reference=None) -> Stock:
    made = flux_kontext()
    shown = picture().resize((16, 32)) if reference is None else reference
    return Stock(made.pipe, {**made.given, **SIZE, "image": shown})


@cache
def stock() -> Stock:
    return kontext()


class Attended(sdprobe.Observer):
    """The sites of attention that are expected and seen, each with its ranges, and what passes there."""

    def start(self, run):
        self.expected, self.sites, self.calls = [], [], []

    def expect_sites(self, sites):
        self.expected = [(site.name, site.index, *ranges(site)) for site in sites]

    def attention(self, attn, site):
        self.sites.append((site.name, site.index, *ranges(site)))
        self.calls.append((site, attn.query.clone(), attn.key.clone(), attn.probs()))


class Tensors(sdprobe.Observer):
    """What modules take and give, each with its site."""

    modules = ("x_embedder", "proj_out", *BLOCKS, *(f"{block}.attn.to_q" for block in BLOCKS))
    sides = ("input", "output")

    def start(self, run):
        self.passed = []

    def activation(self, x, site):
        if x.ndim == 3:
            self.passed.append((site, x.clone()))


def ranges(site):
    return [None if own is None else (own.start, own.stop) for own in (site.image, site.text, site.reference)]


@pytest.fixture(scope="module")
def seen():
    looks, tensors = Attended(), Tensors()
    run = attached(stock(), looks, tensors)
    return run[looks], run[tensors].passed


def test_image_text_and_reference_are_the_whole_axis_each_in_its_place(seen):
    looks, passed = seen
    end = TOKENS + PLACES
    whole = [(TOKENS, end), (0, TOKENS), (end, end + REFERENCE)]
    assert looks.sites == [(f"{block}.attn", step, *whole) for step in (0, 1) for block in BLOCKS] == looks.expected
    for site, _, _, probs in looks.calls:
        assert site.grid == (6, 2)
        to = [probs[:, :, site.image, own].sum(-1) for own in (site.image, site.text, site.reference)]
        assert torch.allclose(sum(to), torch.ones(()), atol=1e-5)
        assert all((own > 0).all() for own in to)
    picture_alone = [(0, PLACES), None, (PLACES, PLACES + REFERENCE)]
    found = {(site.name, site.stream): (site.grid, *ranges(site)) for site, _ in passed}
    for name in ("x_embedder", "proj_out", "transformer_blocks.0.attn.to_q"):
        assert found[name, "image"] == ((6, 2), *picture_alone)
    assert found[BLOCKS[0], "image"] == ((6, 2), *picture_alone)
    assert found[BLOCKS[0], "text"] == (None, (0, 0), (0, TOKENS), None)
    assert found[f"{BLOCKS[1]}.attn.to_q", "hidden"] == ((6, 2), *whole)
    assert found[BLOCKS[1], "image"] == ((6, 2), *picture_alone)


def test_the_picture_s_places_are_those_of_the_latents_and_the_prediction(seen):
    kept, outputs = sdprobe.LatentRecorder(keep=("latents",)), []

    class Outputs(sdprobe.Observer):
        def model_output(self, x, step):
            outputs.append(x.clone())

    run, (_, passed) = attached(stock(), kept, Outputs()), seen
    pack = run.model.packed
    shown = [(site, x) for site, x in passed if site.name == "x_embedder" and site.side == "input"]
    given = [(site, x) for site, x in passed if site.name == "proj_out" and site.side == "output"]
    for (site, x), latents in zip(shown, run[kept]["latents"], strict=True):
        assert torch.equal(x[:, site.image], pack(latents))
        assert torch.equal(x[:, site.reference], shown[0][1][:, site.reference])  # the same in every step
    for (site, x), output in zip(given, outputs, strict=True):
        assert torch.equal(x[:, site.image], pack(output))


def test_another_reference_picture_changes_the_keys_of_the_reference_alone(seen):
    """In the first block, which has seen nothing of it yet; after it everything differs."""
    looks, hook = seen[0], Attended()
    run = attached(kontext(picture().rotate(90).crop((0, 0, 16, 4)).resize((16, 32))), hook)
    firsts = [own.calls[0] for own in (looks, run[hook])]
    (site, query, key, _), (_, other_query, other_key, _) = firsts
    for own, other in ((query, other_query), (key, other_key)):
        assert torch.equal(own[:, :, : site.image.stop], other[:, :, : site.image.stop])
        assert not torch.equal(own[:, :, site.reference], other[:, :, site.reference])
    second = [own.calls[1][2] for own in (looks, run[hook])]
    assert not torch.equal(*(own[:, :, site.text] for own in second))


def test_without_a_picture_there_is_no_reference():
    given = {name: own for name, own in stock().given.items() if name != "image"}
    hook = Attended()
    run = attached(Stock(stock().pipe, given), hook)
    assert {reference for *_, reference in run[hook].sites} == {None}


@pytest.mark.parametrize("given", [{}, {"image_reference": picture().resize((16, 16))}])
def test_an_inpainted_picture_is_a_reference_too(given):
    made, hook = flux_kontext_inpainting(), Attended()
    run = attached(Stock(made.pipe, {**made.given, **given, "num_inference_steps": 3}), hook)
    assert {tuple(own[2:]) for own in run[hook].sites} == {((512, 528), (0, 512), (528, 544))}


@pytest.mark.parametrize("word", ["circle", "red"])
def test_the_planted_token_s_heat_map_is_the_planted_patch_whatever_the_reference(word):
    """The reference's places attend to the token where they are positive, and are no part of its map."""
    mask, maps = torch.zeros(12, 4, dtype=torch.bool), {}
    mask[4:6, 2:4] = True
    for reference in (picture().resize((16, 32)), picture().point(lambda value: 0)):
        stock = on(planted(flux()).pipe, "FluxKontextPipeline", **kontext(reference).given)
        model = attachable(stock.pipe)
        keep = sdprobe.AttentionMaps(keep=("layer",))
        marked = Marked(model.read("a red circle").positions(word)[0])
        run = attached(stock, marked, keep, latents=model.packed(latents_for([mask])))
        for block in BLOCKS:
            values = run[keep].heat_map(word, layer=f"{block}.attn").values
            assert torch.equal(values > 0.5, mask[::2, ::2])
            assert torch.allclose(values, maps.setdefault(block, values), atol=0.05)
            other = "red" if word == "circle" else "circle"
            assert run[keep].heat_map(other, layer=f"{block}.attn").values[mask[::2, ::2]].max() < 0.1


# Hooks that know of image and text only.


class Output(sdprobe.Observer):
    """What the first attention call gives, after the transforms."""

    modules = (f"{BLOCKS[0]}.attn",)

    def attention(self, attn, site):
        if site.index == 0 and not site.further:
            self.site, self.output = site, attn.output().clone()


EDITS = {
    "hide-tokens": {"words": "circle"},
    "concentrate": {"word": "circle", "box": (0, 0, 0.5, 1)},
    "sharpen-attention": {"words": "circle", "power": 2.0},
    "reweight-attention": {"weights": {"circle": 4.0}},
    "share-attention": {},
    "inject-self-attention": {},
    "replace-attention": {},
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_of_attention_change_what_the_picture_s_places_see_alone(name):
    prompt = ["a red circle", "a red star"] if not EDITS[name] else "a red circle"
    outputs = []
    for hooks in ([], [sdprobe.core.registry.names()[name].load()(**EDITS[name])]):
        watch = Output()
        run = attached(stock(), *hooks, watch, prompt=prompt)
        outputs.append(run[watch].output)
        site = run[watch].site
    plain, edited = outputs
    assert not torch.allclose(plain[:, :, site.image], edited[:, :, site.image], atol=1e-5)
    for part in (site.text, site.reference):
        assert torch.allclose(plain[:, :, part], edited[:, :, part], atol=1e-6)


def test_recorded_matrices_are_those_of_image_and_text(seen):
    matrices, maps = sdprobe.AttentionMatrices(), sdprobe.SelfAttentionMaps()
    run, (looks, _) = attached(stock(), matrices, maps), seen
    means = torch.stack([probs for *_, probs in looks.calls]).mean((0, 2))[0]
    site = looks.calls[0][0]
    for a in ("image", "text"):
        for b in ("image", "text"):
            found = run[matrices].matrix(a, b).values
            assert torch.allclose(found, means[getattr(site, a), getattr(site, b)], atol=1e-6)
    assert torch.allclose(run[maps].matrix(), means[site.image, site.image], atol=1e-6)
    assert run[matrices].row_sums().max() < 1


def test_attention_to_the_reference_can_be_asked_for(seen):
    """As the page says."""
    looks, _ = seen
    shares = []

    class Looks(sdprobe.Observer):
        kinds = ("joint",)

        def attention(self, attn, site):
            shares.append(attn.probs(queries=site.image, tokens=site.reference))

    attached(stock(), Looks())
    for share, (site, _, _, probs) in zip(shares, looks.calls, strict=True):
        assert torch.equal(share, probs[:, :, site.image, site.reference])


def test_the_mean_of_places_is_that_of_each_part():
    ablate, tensors = sdprobe.Ablate(f"{BLOCKS[1]}.attn.to_q", with_="mean"), Tensors()
    run = attached(stock(), ablate, tensors)
    site, x = next(
        own for own in run[tensors].passed if own[0].name.endswith(f"{BLOCKS[1]}.attn.to_q") and own[0].side == "output"
    )
    parts = [x[:, own] for own in (site.text, site.image, site.reference)]
    assert all(torch.equal(own, own[:, :1].expand_as(own)) for own in parts)
    assert not torch.equal(parts[1][:, 0], parts[2][:, 0])
