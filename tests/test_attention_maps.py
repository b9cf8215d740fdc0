"""Heat maps: planted truth, DAAM's own numbers, and everything that can be kept, chosen or asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sdprobe
from sdprobe import AttentionMaps
from tests.laws.strategies import run
from tests.planted import OneHot, latents_for, planted, square
from tests.tiny import stable_diffusion

PROMPT = "a red circle and a blue circle"


class EveryCall(sdprobe.Observer):
    """Every cross-attention, kept whole."""

    kinds = ("cross",)

    def start(self, run):
        self.calls = []

    def attention(self, attn, site):
        self.calls.append((site, attn.rows, attn.probs().clone()))


# Planted truth


@pytest.mark.parametrize("grid", [(8, 8), (4, 4)])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("occurrence", [0, 1])
def test_a_planted_square_is_found_at_every_grid(grid, guidance_scale, occurrence):
    position = 3 if occurrence == 0 else 7
    model, mask = planted(position), square((8, 8), 2, 4, 4)
    maps = AttentionMaps(grids=[grid])
    result = run(model, OneHot(), maps, prompt=PROMPT, latents=latents_for([mask]), guidance_scale=guidance_scale)
    expected = mask[:: 8 // grid[0], :: 8 // grid[1]].float()
    assert torch.allclose(result[maps].heat_map("circle", occurrence=occurrence).values, expected, atol=1e-6)
    other = result[maps].heat_map("circle", occurrence=1 - occurrence).values
    assert other[expected.bool()].abs().max() < 1e-6
    assert result[maps].heat_map("circle", occurrence).iou(mask) == 1.0


def test_every_site_finds_the_planted_square():
    model, mask = planted(3), square((8, 8), 0, 2, 4)
    maps = AttentionMaps(keep=("layer",))
    result = run(model, OneHot(), maps, prompt=PROMPT, latents=latents_for([mask]))
    layers = {key.layer: key.grid for key in result[maps].sums}
    assert len(layers) == 7
    for layer, (h, w) in layers.items():
        found = result[maps].heat_map("circle", 0, layer=layer).values
        assert torch.allclose(found, mask[:: 8 // h, :: 8 // w].float(), atol=1e-6), layer


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_each_picture_of_a_batch_has_its_own_square(guidance_scale):
    masks = [square((8, 12), 2 * i, 2 * i + 2, 4) for i in range(3)] + [square((8, 12), 0, 6, 4)]
    model, maps = planted(3), AttentionMaps(grids=[(8, 12)])
    prompts = ["a red circle", "a blue star"]
    settings = {"prompt": prompts, "images_per_prompt": 2, "height": 16, "width": 24, "guidance_scale": guidance_scale}
    result = run(model, OneHot(), maps, latents=latents_for(masks), **settings)
    for image, (word, mask) in enumerate(zip(["circle", "circle", "star", "star"], masks, strict=True)):
        found = result[maps].heat_map(word, image=image)
        assert torch.allclose(found.values, mask.float(), atol=1e-6), image
        assert found.values.shape == (8, 12)


def test_daam_on_planted_truth_is_the_square():
    mask = square((8, 8), 2, 4, 4)
    maps = AttentionMaps(keep=("layer", "head"), grids=[(8, 8)])
    result = run(planted(3), OneHot(), maps, prompt=PROMPT, latents=latents_for([mask]), steps=3)
    # DAAM sums over steps and never divides by their number.
    assert torch.allclose(result[maps].heat_map("circle", 0, method="daam").values, 3 * mask.float(), atol=1e-5)


# DAAM, recomputed in the plainest way


def daam(calls, image, positions, latent_size):
    """DAAM's algorithm as its authors coded it, one map at a time, for conditional rows."""
    sums = {}
    for site, rows, probs in calls:
        factor = int(((latent_size[0] * latent_size[1]) // (site.grid[0] * site.grid[1])) ** 0.5)
        if factor == 8 or site.name.startswith("mid_block"):
            continue
        row = next(i for i, r in enumerate(rows) if r.role == "cond" and r.image == image)
        for head in range(probs.shape[1]):
            key = (factor, site.name, head)
            own = probs[row, head].T.reshape(-1, *site.grid)
            sums[key] = sums.get(key, 0) + own
    resized = [F.interpolate(own[None], size=latent_size, mode="bicubic").clamp(min=0)[0] for own in sums.values()]
    mean = torch.stack(resized).mean(0)
    return torch.stack([mean[p] for p in positions]).mean(0)


@pytest.mark.parametrize("case", ["guided", "unguided", "two images", "two prompts", "non-square"])
def test_daam_equals_its_algorithm(tiny, case):
    """Guided is where DAAM 0.2.0 is right; without guidance it drops heads, with several images it mistakes them for
    heads, and a non-square picture it cannot do at all. Ours is the algorithm in every case."""
    settings = {
        "guided": {},
        "unguided": {"guidance_scale": 1.0},
        "two images": {"images_per_prompt": 2},
        "two prompts": {"prompt": ["a green ring", "a red circle"]},
        "non-square": {"height": 16, "width": 24},
    }[case]
    settings = {"prompt": "a red circle", "steps": 3} | settings
    calls, maps = EveryCall(), AttentionMaps(keep=("layer", "head"))
    result = run(tiny, calls, maps, **settings)
    size = (8, 12) if case == "non-square" else (8, 8)
    image = len(result.images) - 1
    for word in ("red", "circle", "red circle"):
        positions = result.prompt_of(image).positions(word)
        expected = daam(result[calls].calls, image, positions, size)
        assert torch.allclose(result[maps].heat_map(word, image=image, method="daam").values, expected, atol=1e-5)


def test_daam_leaves_out_an_eighth_of_the_latents_size():
    model = sdprobe.load(stable_diffusion(channels=(8, 8, 8, 8), sample_size=16))
    calls, maps = EveryCall(), AttentionMaps(keep=("layer", "head"))
    result = run(model, calls, maps, prompt="a red circle")
    assert {site.grid for site, _, _ in result[calls].calls if not site.name.startswith("mid")} >= {(2, 2), (16, 16)}
    expected = daam(result[calls].calls, 0, (3,), (16, 16))
    assert torch.allclose(result[maps].heat_map("circle", method="daam").values, expected, atol=1e-5)


def test_sums_per_head_are_let_go_where_they_are_large(tiny, monkeypatch):
    monkeypatch.setattr("sdprobe.observe.attention_maps.UNASKED_BYTES", 1)
    maps, kept = AttentionMaps(), AttentionMaps(keep=("layer", "head"))
    result = run(tiny, maps, kept, prompt="a red circle")
    assert torch.allclose(result[maps].heat_map("red").values, result[kept].heat_map("red").values, atol=1e-6)
    assert result[maps].held_bytes < result[kept].held_bytes
    with pytest.raises(ValueError, match=r"keep=\('layer', 'head'\)"):
        result[maps].heat_map("red", method="daam")


# The mean, recomputed in the plainest way


def mean(calls, image, positions, role="cond"):
    maps = []
    for site, rows, probs in calls:
        row = next(i for i, r in enumerate(rows) if r.role == role and r.image == image)
        own = probs[row].mean(0)[:, list(positions)].mean(-1).reshape(1, 1, *site.grid)
        maps.append(F.interpolate(own, size=(8, 8), mode="bilinear")[0, 0])
    return torch.stack(maps).mean(0)


def test_the_mean_is_over_sites_heads_and_steps(tiny):
    calls, maps = EveryCall(), AttentionMaps(rows="both")
    result = run(tiny, calls, maps, prompt=PROMPT, negative_prompt="a green star", images_per_prompt=2, steps=3)
    for image in (0, 1):
        prompt = result.prompt_of(image)
        for word in ("red", "blue circle", "<start>", "<end>", "<pad>", 4):
            expected = mean(result[calls].calls, image, prompt.positions(word))
            assert torch.allclose(result[maps].heat_map(word, image=image).values, expected, atol=1e-6), word
        expected = mean(result[calls].calls, image, (3,), "uncond")
        assert torch.allclose(result[maps].heat_map("star", image=image, role="uncond").values, expected, atol=1e-6)


def test_what_is_kept_apart_averages_to_the_whole(tiny):
    whole, apart = AttentionMaps(), AttentionMaps(keep=("step", "layer", "head"))
    result = run(tiny, whole, apart, prompt=PROMPT, steps=3)
    expected = result[whole].heat_map("red").values
    steps = [result[apart].heat_map("red", step=step).values for step in range(3)]
    assert torch.allclose(torch.stack(steps).mean(0), expected, atol=1e-6)
    heads = [result[apart].heat_map("red", head=head).values for head in range(2)]
    assert torch.allclose(torch.stack(heads).mean(0), expected, atol=1e-6)
    layers = {key.layer for key in result[apart].sums}
    maps = [result[apart].heat_map("red", layer=layer).resize((8, 8), "bilinear").values for layer in layers]
    assert torch.allclose(torch.stack(maps).mean(0), expected, atol=1e-6)


def test_chosen_words_have_the_same_maps_as_among_all(tiny):
    every, chosen = AttentionMaps(), AttentionMaps(words=["red", "<end>"])
    result = run(tiny, every, chosen, prompt=PROMPT)
    for word in ("red", "<end>"):
        assert torch.allclose(result[every].heat_map(word).values, result[chosen].heat_map(word).values, atol=1e-6)
    assert list(result[chosen].heat_maps()) == ["red"]
    with pytest.raises(ValueError, match="'blue' was not recorded"):
        result[chosen].heat_map("blue")


def test_words_of_several_tokens_are_merged(tiny):
    maps = AttentionMaps()
    result = run(tiny, maps, prompt="a checkered drawing")
    prompt = result.prompts[0]
    assert prompt.words["checkered"] == ((2, 3),)
    by_token = [result[maps].heat_map(position).values for position in (2, 3)]
    assert torch.allclose(result[maps].heat_map("Checkered").values, torch.stack(by_token).mean(0), atol=1e-7)


def test_rows_sum_to_one(tiny):
    maps = AttentionMaps()
    sums = run(tiny, maps, prompt=PROMPT)[maps].row_sums()
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)


def test_sites_are_chosen_by_name_place_and_grid(tiny):
    by = {
        "name": AttentionMaps(modules=("up_blocks.*",), keep=("layer",)),
        "place": AttentionMaps(places=["up"], keep=("layer",)),
        "grid": AttentionMaps(grids=[4], keep=("layer",)),
    }
    result = run(tiny, *by.values(), prompt=PROMPT)
    layers = {name: {key.layer for key in result[maps].sums} for name, maps in by.items()}
    assert layers["name"] == layers["place"] != set()
    assert all(str(layer).startswith("up_blocks") for layer in layers["name"])
    assert {key.grid for key in result[by["grid"]].sums} == {(4, 4)}


def test_what_is_held_does_not_grow_with_steps(tiny):
    maps = AttentionMaps()
    held = [run(tiny, maps, prompt=PROMPT, steps=steps)[maps].held_bytes for steps in (1, 2, 8)]
    assert held[0] == held[1] == held[2] > 0


def test_figures_for_papers(tiny):
    maps = AttentionMaps(keep=("step", "layer", "head"))
    result = run(tiny, maps, prompt="a red circle", steps=3)
    with pytest.raises(ValueError, match=r"head 9; recorded: 3 steps \[0, 1, 2\], 2 heads"):
        result[maps].heat_map("red", head=9)
    for by, across in (("step", 3), ("layer", 7), ("head", 2)):
        figure = result[maps].grid(by)
        assert len(figure.axes) == 3 * across
    plain = AttentionMaps()
    result = run(tiny, plain)
    with pytest.raises(ValueError, match=r"keep=\('step',\)"):
        result[plain].grid("step")


# Errors in the user's own words


def test_an_unknown_word_lists_the_prompt_s_words(tiny):
    maps = AttentionMaps()
    result = run(tiny, maps, prompt="a red circle")
    with pytest.raises(sdprobe.WordNotInPrompt, match=r"'hexagon' is not in the prompt.*'a', 'red', 'circle'"):
        result[maps].heat_map("hexagon")
    with pytest.raises(ValueError, match="occurs 1 times"):
        result[maps].heat_map("circle", occurrence=1)
    with pytest.raises(ValueError, match="image 3 is not in this run"):
        result[maps].heat_map("circle", image=3)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        result[maps].heat_map("circle", method="max")
    for ask in (result[maps].heat_map, lambda word, **role: result[maps].heat_maps(**role)):
        with pytest.raises(ValueError, match="rows='both'"):
            ask("circle", role="uncond")
    kept = AttentionMaps(keep="head")
    result = run(tiny, kept)
    for ask in (result[kept].heat_maps, lambda image: result[kept].grid("head", image=image)):
        with pytest.raises(ValueError, match="image 9 is not in this run of 1 images"):
            ask(image=9)


def test_where_nothing_was_recorded_it_says_so(tiny):
    """A grid that a U-Net of this size could have, and this one has not."""
    maps = AttentionMaps(grids=[(2, 2)], keep=("step", "head"))
    own = run(tiny, maps)[maps]
    assert own.held_bytes == 0
    for ask in (lambda: own.grid("step"), lambda: own.heat_map("red"), own.heat_maps, lambda: own.heat_map(2, head=1)):
        with pytest.raises(ValueError, match="nothing was recorded: no attention site that was asked for"):
            ask()


def test_a_word_to_record_must_be_in_the_prompt(tiny):
    with pytest.raises(sdprobe.WordNotInPrompt, match="'hexagon'"):
        run(tiny, AttentionMaps(words=["hexagon"]))


@pytest.mark.parametrize("bad", [{"keep": ("steps",)}, {"rows": "conditional"}, {"dtype": "int8"}, {"device": "gpu"}])
def test_bad_options_are_refused(bad):
    with pytest.raises(ValueError, match=r"step|cond|torch\.float16|'cuda'"):
        AttentionMaps(**bad)


def test_sliced_attention_is_named_and_strict_decides():
    pipe = stable_diffusion()
    pipe.enable_attention_slicing("max")
    with pytest.raises(RuntimeError, match=r"could not be seen: its SlicedAttnProcessor calls neither torch.s"):
        run(pipe, AttentionMaps())
    result = run(pipe, AttentionMaps(strict=False))
    assert len(result.coverage.missed) == 7
    assert "disable_attention_slicing" in str(result.coverage)
