"""`deletion`: each condition is the hook written out, in the order of its map."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, HeatMap, HideTokens, WordNotInPrompt
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.deletion import OWN, Deletion, deletion
from sdprobe.experiments.random_field import random_field
from sdprobe.experiments.sampler import attached, sampler_of
from sdprobe.experiments.seed_of import seed_of
from tests.families import ASKED, FAMILIES
from tests.laws.strategies import run

CASE = Case("a red circle left of a blue star", seed=1, words={"shape": "circle", "other": "star"})
SETTINGS = {"steps": 1, "guidance_scale": 3.0}


def runner_of(embedded, case=CASE):
    return CaseRunner(sampler_of(embedded), case, SETTINGS)


def maps_of(embedded, case=CASE):
    maps = AttentionMaps()
    return run(embedded, maps, prompt=case.prompt, seed=case.seed, **SETTINGS)[maps]


def test_each_order_is_that_of_its_map(embedded):
    runner = runner_of(embedded)
    made = Deletion("{shape}", "{other}", (0.1, 0.5)).conditions(CASE, runner)
    maps = maps_of(embedded)
    own, other = maps.heat_map("circle").values, maps.heat_map("star").values
    orders = {
        OWN: own,
        "coldest first": -own,
        "another word's map": other,
        "a random field": random_field(HeatMap(own), [seed_of(CASE.prompt, CASE.seed)]).values,
    }
    assert [*made] == [f"{order}, {share}" for order in orders for share in (0.1, 0.5)]
    for order, values in orders.items():
        condition = made[f"{order}, 0.1"]
        (hook,) = condition.hooks()
        assert hook.words == "circle"
        assert hook.share == 0.1
        assert torch.equal(torch.tensor(hook.order), values)
        assert condition.labels == {"order": order, "share": 0.1}
        assert condition.control == (order != OWN)
    written = HideTokens("circle", order=own, share=0.1)
    expected = run(embedded, written, prompt=CASE.prompt, seed=CASE.seed, **SETTINGS).latents
    assert torch.equal(runner.run(made[f"{OWN}, 0.1"].hooks()).latents, expected)


def test_another_word_is_drawn_from_the_prompt(embedded):
    """By the seed, and not the word itself."""
    runners = [runner_of(embedded, Case(CASE.prompt, seed, words=CASE.words)) for seed in (*range(12), 3)]
    drawn = [Deletion("{shape}")._other(runner.case, runner) for runner in runners]
    assert {*drawn} <= {"red", "left", "of", "blue", "star"}
    assert len({*drawn}) > 2
    assert drawn[12] == drawn[3]


def test_the_whole_share_is_the_same_in_every_order(tiny):
    change = {"size": lambda run: run.latents.norm()}
    result = deletion(tiny, CASE, "{shape}", shares=[1.0], measures=change, progress=False, **SETTINGS)
    hidden = run(tiny, HideTokens("circle"), prompt=CASE.prompt, seed=CASE.seed, **SETTINGS).latents.norm()
    for order in result.orders:
        assert result.curve(order, "size")[1][1].value == pytest.approx(hidden.item(), rel=1e-4)
    assert not result.failed


def test_a_stock_pipeline(embedded):
    own = {"shares": [0.2], "measures": {"size": lambda run: run.latents.norm()}, "steps": 1, "progress": False}
    ours = deletion(embedded, CASE, "{shape}", guidance_scale=7.5, **own)
    theirs = deletion(attached(embedded.pipe), CASE, "{shape}", guidance_scale=7.5, **own)
    assert [row["value"] for row in ours.rows] == pytest.approx([row["value"] for row in theirs.rows], rel=1e-4)
    assert len({row["value"] for row in theirs.rows}) == 5


def test_joint_attention():
    model = sdprobe.load(FAMILIES["Flux.1 dev"]())
    own = {"steps": 1, "width": 16, "height": 16, "progress": False}
    result = deletion(model, CASE, "{shape}", shares=[0.5], measures={"n": lambda run: run.latents.norm()}, **own)
    assert not result.failed
    assert len({row["value"] for row in result.rows}) == 5


@pytest.mark.parametrize("family", ["LTX-Video", "CogVideoX"])
def test_a_video(family):
    """In cross- and in joint attention; the order is over all places of all frames."""
    model, own = sdprobe.load(FAMILIES[family]()), {"steps": 2, "guidance_scale": 3.0}
    own |= {name: ASKED[family][name] for name in ("frames", "height", "width")}
    size = {"size": lambda run: run.latents.norm()}
    result = deletion(model, CASE, "{shape}", shares=[0.3], measures=size, batch=1, progress=False, **own)
    assert not result.failed
    assert len({row["value"] for row in result.rows}) == 5
    maps = AttentionMaps()
    heat = run(model, maps, prompt=CASE.prompt, seed=CASE.seed, **own)[maps].heat_map("circle")
    assert heat.is_video
    written = HideTokens("circle", order=heat.values, share=0.3)
    expected = run(model, written, prompt=CASE.prompt, seed=CASE.seed, **own).latents.norm()
    assert result.curve(OWN, "size")[1][1].value == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_refused(embedded):
    for shares in ([], [0.2, 0.1], [-0.1], [1.5], [0.1, 0.1]):
        with pytest.raises(ValueError, match="growing numbers from 0 to 1"):
            deletion(embedded, CASE, "circle", shares=shares)
    with pytest.raises(ValueError, match="the share 0 is the untouched condition"):
        deletion(embedded, CASE, "circle", shares=[0, 0.5])
    with pytest.raises(WordNotInPrompt, match="'green' is not in the prompt"):
        deletion(embedded, CASE, "green", measures=len, **SETTINGS)
