"""Attention in all directions: planted truth, plain recomputation, and what is held."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, AttentionMatrices, SelfAttentionMaps, only
from tests.families import flux, pixart, stable_diffusion_3
from tests.laws.strategies import run
from tests.planted_families import planted
from tests.stock_pipelines import attached, text_to_image
from tests.test_attach_callbacks import switching
from tests.test_planted_families import CELLS, JOINT, masks, run_of

BOTH = {"text", "image"}
EVERY = [(a, b) for a in ("text", "image") for b in ("text", "image")]


class Calls(sdprobe.Observer):
    """Every call, kept whole."""

    kinds = ("cross", "self", "joint")

    def start(self, run):
        self.calls = []

    def attention(self, attn, site):
        self.calls.append((site, attn.rows, attn.probs().clone()))


def mean_of(calls, parts, kind, grid, image, role="cond", layer=None, step=None):
    """The mean over heads, sites and steps, the plainest way."""
    found = []
    for site, rows, probs in calls:
        if (site.kind, site.grid) == (kind, grid) and layer in (None, site.name) and step in (None, site.index):
            row = next(i for i, own in enumerate(rows) if own.role == role and own.image == image)
            places = {"image": site.image, "text": site.text}
            found.append(probs[row].mean(0)[places[parts[0]]][:, places[parts[1]]])
    return torch.stack(found).mean(0)


# Planted truth


def holds_planted_truth(own, image, position, encoder=None, **at):
    """The marked token and the patch look at each other alone."""
    row, column = CELLS[image]
    patch = row * 6 + column
    toward, back = own.matrix("image", "text", image, **at), own.matrix("text", "image", image, **at)
    assert toward.values[patch].argmax() == position == back.values[:, patch].argmax()
    assert toward.values[patch, position] > 0.9
    assert toward.values[:, position].argmax() == patch
    assert back.values[position].argmax() == patch
    assert back.values[position, patch] > 0.9
    assert own.matrix("image", "image", image, **at).values[patch].sum() < 0.1
    assert own.matrix("text", "text", image, **at).values[position].sum() < 0.1
    assert toward.columns[position] == back.rows[position] == "circle"
    assert toward.rows[patch] == back.columns[patch] == f"{row},{column}"
    for direction in (("image", "text"), ("text", "image")):
        heat = own.heat_map("circle", direction, image, encoder=encoder, **at)
        assert heat.values.shape == (4, 6)
        assert heat.values.argmax() == patch
        assert heat.iou(masks()[image]) == 1


@pytest.mark.parametrize("family", JOINT)
def test_a_token_and_a_patch_look_at_each_other(family):
    model, own = planted(JOINT[family]()), AttentionMatrices(keep="layer")
    encoders = dict.fromkeys(name for names in model.token_axis for name in names[:1])
    for encoder in encoders:
        result = run_of(model, "circle", own, encoder=encoder)
        position = next(p for p in result.prompts[0].positions("circle") if p in result.prompts[0].of(encoder))
        layers = {key.layer for key in result[own].sums if key.kind == "joint"}
        assert layers == {name for name, kind in result.coverage.sites.items() if kind == "joint"}
        if "Flux" in family:  # double and single blocks
            assert len({layer.split(".")[0] for layer in layers}) == 2
        for image in range(len(CELLS)):
            holds_planted_truth(result[own], image, position, encoder)
            for layer in layers:
                holds_planted_truth(result[own], image, position, encoder, layer=layer)
        sums = result[own].row_sums()
        if model.registers or family == "Z-Image":  # its rest goes to registers, or to padding of the image
            assert sums.max() <= 1 + 1e-2
            continue
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-2)  # planted scores are of a large range


def test_the_encoders_of_stable_diffusion_3_are_parts():
    model, own = planted(stable_diffusion_3()), AttentionMatrices()
    result = run_of(model, "circle", own, encoder="text_encoder_3")
    clip, t5 = "text_encoder", "text_encoder_3"
    whole = result[own].matrix("text", "text")
    parts = [[result[own].matrix(a, b).values for b in (clip, t5)] for a in (clip, t5)]
    assert torch.equal(torch.cat([torch.cat(row, 1) for row in parts]), whole.values)
    to_picture = result[own].matrix(t5, "image")
    assert to_picture.rows == whole.rows[16:]
    assert to_picture.rows[:5] == ("a", "red", "circle", "<end>", "<pad>")
    marked, patch = to_picture.rows.index("circle"), CELLS[0][0] * 6 + CELLS[0][1]
    assert to_picture.values[marked, patch] > 0.9
    assert result[own].matrix(clip, "image").values[:, patch].max() < 0.1
    assert result[own].heat_map("circle", ("text", "image"), encoder=t5).values.max() > 0.9
    assert result[own].heat_map("circle", ("text", "image"), encoder=clip).values.max() < 0.1
    with pytest.raises(ValueError, match="no token comes from 'text_encoder_4' here"):
        result[own].matrix("text_encoder_4", "image")
    # Blocks of 3.5 have self-attention of the picture beside: it is in no joint matrix.
    alone = result[own].matrix("image", "image", kind="self").values.sum(-1)
    assert torch.allclose(alone, torch.ones(24), atol=1e-2)


# Plain recomputation


@pytest.mark.parametrize(
    ("make", "grid"), [(flux, (4, 6)), (stable_diffusion_3, (4, 6)), (pixart, (4, 6)), (None, (8, 12))]
)
def test_a_matrix_is_the_mean_over_heads_sites_and_steps(tiny, make, grid):
    model = tiny if make is None else sdprobe.load(make())
    own, apart, calls = AttentionMatrices(rows="both"), AttentionMatrices(keep=("layer", "step")), Calls()
    settings = {"prompt": ["a red circle", "a star"], "height": 16, "width": 24, "guidance_scale": 4.0}
    if make is flux:
        own = AttentionMatrices()
    result = run(model, own, apart, calls, **settings)
    kinds = {"joint": EVERY} if "joint" in result.coverage.sites.values() else {"cross": [("image", "text")]}
    kinds |= {} if "joint" in kinds else {"self": [("image", "image")]}
    for kind, directions in kinds.items():
        for parts in directions:
            for image in (0, 1):
                for role in result[own].roles:
                    expected = mean_of(result[calls].calls, parts, kind, grid, image, role)
                    assert torch.allclose(result[own].matrix(*parts, image, role=role).values, expected, atol=1e-6)
            layer = next(site.name for site, *_ in result[calls].calls if (site.kind, site.grid) == (kind, grid))
            expected = mean_of(result[calls].calls, parts, kind, grid, 1, layer=layer, step=1)
            assert torch.allclose(result[apart].matrix(*parts, 1, layer=layer, step=1).values, expected, atol=1e-6)
    sums = result[apart].row_sums()
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)


def test_beside_the_maps_it_says_the_same(tiny):
    maps, looks, own = AttentionMaps(grids=[8]), SelfAttentionMaps(grids=[8]), AttentionMatrices()
    result = run(tiny, maps, looks, own, prompt="a red circle")
    heat = result[own].heat_map("red")
    assert torch.allclose(heat.values, result[maps].heat_map("red").values, atol=1e-6)
    assert heat.picture is result.images[0]
    assert torch.allclose(result[own].matrix("image", "image").values, result[looks].matrix(), atol=1e-6)
    through = result[maps].matrix("image", "text", 0, grid=4)
    assert torch.equal(through.values, result[own].matrix("image", "text", grid=(4, 4)).values)
    alone = run(tiny, maps)
    with pytest.raises(ValueError, match=r"hooks=\[maps, sdprobe\.AttentionMatrices\(\)\]"):
        alone[maps].matrix("image", "text")


def test_a_matrix_in_blocks_is_the_same(tiny, monkeypatch):
    whole, own = AttentionMatrices(), AttentionMatrices()
    expected = run(tiny, whole)[whole]
    monkeypatch.setattr("sdprobe.observe.matrix_sums.BLOCK_BYTES", 4 * 7 * 2 * 64)
    found = run(tiny, own)[own]
    for key, total in expected.sums.items():
        assert torch.allclose(found.sums[key], total, atol=1e-6)


# Limits, several pictures, files


def test_limited_it_records_what_it_is_limited_to(tiny):
    settings = {"prompt": ["a red circle", "a star"], "steps": 3, "images_per_prompt": 2}
    whole, part = AttentionMatrices(keep="step"), only(AttentionMatrices(), rows=[2], steps=[1])
    maps = only(AttentionMaps(), rows=[2])
    result = run(tiny, whole, part, maps, **settings)
    expected = result[whole].matrix("image", "text", 2, step=1)
    assert torch.allclose(result[part].matrix("image", "text", 0).values, expected.values, atol=1e-6)
    assert result[part].matrix("image", "text", 0).columns == expected.columns
    assert expected.columns[1:4] == ("a", "star", "<end>")


def test_matrices_and_maps_of_different_images_are_not_mixed(tiny):
    maps = AttentionMaps()
    result = run(tiny, maps, only(AttentionMatrices(), rows=[1]), images_per_prompt=2)
    with pytest.raises(ValueError, match="of different images"):
        result[maps].matrix("image", "text")


def test_saved_opened_and_pickled_it_answers_the_same(tiny, reopened):
    own = AttentionMatrices(keep="layer", rows="both", directions=[("image", "text")])
    live = run(tiny, own, images_per_prompt=2, width=24)
    layer = next(iter(live[own].sums)).layer
    for again in (reopened(live)[AttentionMatrices], pickle.loads(pickle.dumps(live))[AttentionMatrices]):
        assert again.held_bytes == live[own].held_bytes
        for at in ({}, {"layer": layer, "role": "uncond", "image": 1}):
            found, expected = (record.matrix("image", "text", **at) for record in (again, live[own]))
            assert torch.equal(found.values, expected.values)
            assert found.columns == expected.columns
        assert torch.equal(again.heat_map("red").values, live[own].heat_map("red").values)


def test_records_of_others_are_refused(tiny):
    live = run(tiny, own := AttentionMatrices())
    records = live[own].records()
    records = replace(records, values=json.loads(json.dumps(records.values)))
    first = records.values["sums"][0]
    damaged = [[*first[:-1], -1], [*first[:6], 7, *first[7:]], first[:-1], "a sum", [first[0], "head", *first[2:]]]
    for written in damaged:
        with pytest.raises(ValueError, match=r"needed|no sum|is no part|is no kind"):
            AttentionMatrices().restore(replace(records, values=records.values | {"sums": [written]}), live)
    for wrong in (torch.zeros(1, 3, 3), torch.zeros(64, 32), torch.zeros(0, 64, 32)):
        again = AttentionMatrices()
        again.restore(replace(records, tensors=dict.fromkeys(records.tensors, wrong)), live)
        with pytest.raises(ValueError, match=r"the sum \d+, .*, is none of 1 image × \d+ places × "):
            again.matrix("image", "text")


def test_another_prompt_from_some_step_on_is_asked_for_by_step():
    stock = text_to_image()
    whole, apart, maps = AttentionMatrices(), AttentionMatrices(keep="step"), AttentionMaps(keep="step", grids=[8])
    result = attached(stock, whole, apart, maps, **switching(stock, "a blue star"))
    with pytest.raises(ValueError, match=r"shown 2 prompts in this run.*keep=\('step',\)"):
        result[whole].matrix("image", "text")
    mean = torch.stack([result[apart].matrix("image", "image", step=i).values for i in range(3)]).mean(0)
    assert torch.allclose(result[whole].matrix("image", "image").values, mean, atol=1e-6)
    assert result[apart].matrix("image", "text", step=0).columns[2] == "red"
    assert result[apart].matrix("image", "text", step=1).columns[2] == "blue"
    expected = result[maps].heat_map("star", step=2).values
    assert torch.allclose(result[apart].heat_map("star", step=2).values, expected, atol=1e-6)


# Budget, errors


def test_what_is_expected_is_held_and_refused_before_the_first_step(tiny):
    class Sites(sdprobe.Observer):
        kinds = ("cross", "self")

        def start(self, run):
            self.sites = []

        def expect_sites(self, sites):
            self.sites = sites

        def attention(self, attn, site): ...

    own, sites = AttentionMatrices(keep=("layer", "step"), rows="both"), Sites()
    result = run(tiny, own, sites, images_per_prompt=2, width=24)
    expected = result[own].expected(result[sites].sites)
    assert {key: size.numbers for key, size in expected.items()} == {k: x.numel() for k, x in result[own].sums.items()}
    steps: list[int] = []

    class Steps(sdprobe.Observer):
        def latents(self, x, step):
            steps.append(step.index)

    seen, small = Steps(), AttentionMatrices(budget=10_000)
    with pytest.raises(ValueError, match=r"(?s)AttentionMatrices.* would hold .*image→image: 1 image × 64 places × 64"):
        run(tiny, seen, small)
    assert steps == []


@pytest.mark.parametrize("asked", [("text", "image"), ("text", "text")])
def test_the_text_looks_at_nothing_in_a_u_net(tiny, asked):
    with pytest.raises(ValueError, match=r"text→.* the text does not look at the picture in this model"):
        run(tiny, AttentionMatrices([asked]))
    own = AttentionMatrices()
    result = run(tiny, own)[own]
    with pytest.raises(ValueError, match="in the text encoder alone, which runs before"):
        result.matrix(*asked)


def test_errors_in_the_user_s_words(tiny):
    own = AttentionMatrices([("image", "text")])
    result = run(tiny, own, prompt="a red circle")[own]
    for ask, message in (
        (
            lambda: result.matrix("image", "image"),
            r"image→image was not recorded: the directions were \(\('image'",
        ),
        (lambda: result.matrix("image", "text", layer="mid"), r"layers were not kept apart.*keep=\('layer',\)"),
        (lambda: result.matrix("image", "text", grid=5), r"grid 5; recorded: cross; .* the grids .*\(8, 8\)"),
        (lambda: result.matrix("image", "text", role="uncond"), r"AttentionMatrices\(rows='both'\)"),
        (lambda: result.matrix("image", "text", 3), "image 3 is not in this run"),
        (lambda: result.heat_map("hexagon"), "'hexagon' is not in the prompt"),
        (lambda: result.heat_map("red", ("text", "text")), "from the image to the text, or from the text"),
        (result.row_sums, "record with directions=None"),
        (lambda: AttentionMatrices(["text"]), r"a direction is a pair such as \('text', 'image'\)"),
        (lambda: AttentionMatrices([]), "directions names at least one"),
        (lambda: AttentionMatrices(keep="head"), r"cannot keep \['head'\]; what can be kept apart: step, layer"),
        (lambda: AttentionMatrices(rows="all"), "'cond', 'uncond' or 'both', not 'all'"),
        (lambda: AttentionMatrices(budget="2 GB"), "a number of bytes"),
        (lambda: run(tiny, AttentionMatrices(grids=[5])), r"no site can have a grid of \[\(5, 5\)\]"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_the_picture_is_the_same_by_a_bit(tiny):
    plain = run(tiny, steps=2)
    assert torch.equal(run(tiny, AttentionMatrices(keep=("layer", "step")), steps=2).latents, plain.latents)
