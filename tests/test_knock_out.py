"""`knock_out`: each condition is the hook written out, and the controls are there without being asked for."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, HideTokens, WordNotInPrompt, only
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.job import Job
from sdprobe.experiments.knock_out import KnockOut, knock_out, other_heads
from sdprobe.experiments.measures import Area, Heated
from sdprobe.experiments.sampler import sampler_of
from sdprobe.transform.attention_edits.share_of_places import ShareOfPlaces
from tests.families import FAMILIES
from tests.laws.strategies import run

CASE = Case("a red circle left of a blue star", seed=1, words={"colour": "red", "shape": "circle"})
SETTINGS = {"steps": 1, "guidance_scale": 3.0}


@dataclass(frozen=True)
class UpperLeft:
    """A region as those of the measures."""

    seen: bool = True

    def mask(self, run: Any, untouched: Any, case: Case) -> torch.Tensor | None:
        mask = torch.zeros(64, 64, dtype=torch.bool)
        mask[:32, :32] = True
        return mask if self.seen else None


def latents(embedded, design, case=CASE, settings=SETTINGS):
    """The latents under each condition that a case has."""
    runner = CaseRunner(sampler_of(embedded), case, settings)
    made = design.conditions(case, runner)
    hooks = {name: own.hooks() if callable(own.hooks) else own.hooks for name, own in made.items()}
    return made, {name: runner.run(own).latents for name, own in hooks.items()}


def by_hand(embedded, *hooks, case=CASE, settings=SETTINGS):
    return run(embedded, *hooks, prompt=case.prompt, seed=case.seed, **settings).latents


def test_words_and_their_controls(embedded):
    words = {"colour": ("{colour}",), "both": ("{colour}", "{shape}"), "third": (3,)}
    made, found = latents(embedded, KnockOut(words))
    assert [*made] == [f"without {name}" for name in (*words, "a random word", "2 random words")]
    assert torch.equal(found["without colour"], by_hand(embedded, HideTokens("red")))
    assert torch.equal(found["without both"], by_hand(embedded, HideTokens(["red", "circle"])))
    assert torch.equal(found["without third"], by_hand(embedded, HideTokens("circle")))
    assert made["without both"].labels == {"hidden": "red, circle"}
    assert [name for name, own in made.items() if own.control] == ["without a random word", "without 2 random words"]
    for name, count in (("without a random word", 1), ("without 2 random words", 2)):
        drawn = str(made[name].labels["hidden"]).split(", ")
        assert len(drawn) == count
        assert not {*drawn} & {"red", "circle"}
        assert torch.equal(found[name], by_hand(embedded, HideTokens(drawn)))


def test_limits(embedded):
    design = KnockOut({"colour": ("{colour}",)}, sites="up_blocks*", in_steps=range(1))
    two = SETTINGS | {"steps": 2}
    _, found = latents(embedded, design, settings=two)
    hook = only(HideTokens("red"), sites="up_blocks*", steps=range(1))
    assert torch.equal(found["without colour"], by_hand(embedded, hook, settings=two))


def test_a_region_and_one_elsewhere(embedded):
    mask = UpperLeft().mask(None, None, CASE)
    for where in (UpperLeft(), mask):
        made, found = latents(embedded, KnockOut({"colour": ("{colour}",)}, where=where))
        assert torch.equal(found["without colour"], by_hand(embedded, HideTokens("red", places=mask)))
        elsewhere = made["without colour, in a random region"]
        (hook,) = elsewhere.hooks()
        assert elsewhere.control
        moved = torch.tensor(hook.order) > 0
        assert moved.sum() == mask.sum()
        assert not torch.equal(moved, mask)
        (hook,) = made["without a random word"].hooks()
        assert torch.equal(torch.tensor(hook.order) > 0, mask)


def test_a_region_by_the_heat_map_of_a_word(embedded):
    _, found = latents(embedded, KnockOut({"colour": ("{colour}",)}, where="{shape}"))
    maps = AttentionMaps()
    mask = run(embedded, maps, prompt=CASE.prompt, seed=CASE.seed, **SETTINGS)[maps].heat_map("circle").mask().float()
    hook = HideTokens("red", order=mask, share=mask.mean().item())
    assert torch.equal(found["without colour"], by_hand(embedded, hook))


def test_a_region_that_covers_no_place_of_the_coarsest_grid_by_half(embedded):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[25:40, 25:40] = True
    with pytest.raises(ValueError, match="covers no place of the 4×4"):
        by_hand(embedded, HideTokens("red", places=mask))
    made, found = latents(embedded, KnockOut({"colour": ("{colour}",)}, where=mask))
    plain = by_hand(embedded)
    assert not any(torch.equal(own, plain) for own in found.values())
    hooks = [made[name].hooks()[0] for name in ("without colour", "without colour, in a random region")]
    for grid in ((16, 16), (8, 8), (4, 4)):
        counts = [ShareOfPlaces.of(hook.order, hook.share).at(grid).sum() for hook in hooks]
        assert counts[0] == counts[1] > 0


def test_heads_and_others(embedded):
    made, found = latents(embedded, KnockOut({"colour": ("{colour}",)}, heads=(1,)))
    assert torch.equal(found["without colour"], by_hand(embedded, HideTokens("red", heads=[1])))
    (hook,) = made["without colour, at random heads"].hooks()
    assert hook.heads in ([0], [2], [3])
    assert made["without colour, at random heads"].control
    assert {tuple(other_heads([0, 3], 6, [seed])) for seed in range(60)} == {
        (a, b) for a in (1, 2, 4, 5) for b in (1, 2, 4, 5) if a < b
    }
    with pytest.raises(ValueError, match="at 3 other heads, and of 4 only 1 are left"):
        other_heads([0, 1, 2], 4, [0])


def test_the_table(embedded):
    cases = [CASE, replace(CASE, prompt="a red circle", seed=2)]
    measures = {"size": lambda run: run.latents.abs().mean()}
    result = knock_out(embedded, cases, ["{colour}", "{shape}"], measures=measures, progress=False, **SETTINGS)
    assert result.conditions == ("untouched", "without colour, shape", "without 2 random words")
    assert result.summary()["without 2 random words", "size"].control
    # The second prompt has one word besides: the control cannot be, and its row says so.
    (failed,) = result.failed
    assert failed["condition"] == "without 2 random words"
    assert "hides 2 other words of 'a red circle', and there are 1" in failed["error"]


def test_a_picture_without_the_region_is_a_row_that_says_so(embedded):
    result = knock_out(embedded, CASE, "red", where=UpperLeft(seen=False), measures=len, progress=False, **SETTINGS)
    assert {row["condition"] for row in result.failed} == {*result.conditions}
    errors = [row["error"] for row in result.failed if row["condition"] == "without red"]
    assert "the untouched picture has no UpperLeft(seen=False)" in errors[0]


def test_the_usual_measure_is_the_change_of_the_picture(embedded):
    result = knock_out(embedded, CASE, "<end>", progress=False, **SETTINGS)
    assert result.measures == ("picture change",)
    assert result.values("untouched", "picture change") == [0.0]
    assert result.values("without <end>", "picture change")[0] > 0


def test_a_word_that_is_not_there(embedded):
    with pytest.raises(WordNotInPrompt, match="'green' is not in the prompt"):
        knock_out(embedded, CASE, "green", measures=len, **SETTINGS)


@pytest.fixture(scope="module")
def video():
    model = sdprobe.load(FAMILIES["LTX-Video"]())
    own = {"frames": 5, "height": 32, "width": 64, "prompt": CASE.prompt, "seed": CASE.seed, **SETTINGS, "steps": 2}
    return model, own


def of_video(video, where):
    model, own = video
    settings = {name: own[name] for name in own if name not in ("prompt", "seed")}
    size = {"size": lambda run: run.latents.double().norm()}
    result = knock_out(model, CASE, "red", where=where, measures=size, batch=1, progress=False, **settings)
    assert not result.failed
    assert len({row["value"] for row in result.rows}) == 4
    return result.rows[1]["value"]


def hidden_in(video, **where):
    model, own = video
    return run(model, HideTokens("red", **where), **own).latents.double().norm().item()


def test_where_a_word_is_in_a_video(video):
    model, own = video
    maps = AttentionMaps()
    untouched = run(model, maps, **own)
    mask = untouched[maps].heat_map("circle").mask().float()
    assert mask.ndim == 3
    assert of_video(video, "{shape}") == hidden_in(video, order=mask, share=mask.mean().item())
    of_frames = Heated("circle").mask(untouched, untouched, CASE)
    assert of_video(video, Heated("circle")) == of_video(video, of_frames)


def test_a_mask_over_every_frame_is_counted_in_latent_frames(video):
    """The first of 5 frames is the first of 3 latent frames alone."""
    mask = torch.zeros(5, 32, 64, dtype=torch.bool)
    mask[0, :, :32] = True
    latents = torch.zeros(3, 4, 8)
    latents[0, :, :4] = 1
    expected = hidden_in(video, order=latents, share=1 / 6)
    assert of_video(video, mask) == of_video(video, Area(mask)) == of_video(video, latents > 0) == expected
    half = torch.zeros(4, 8, dtype=torch.bool)
    half[:, :4] = True
    assert of_video(video, half) == hidden_in(video, places=half)


def test_a_mask_that_is_none(embedded):
    with pytest.raises(TypeError, match="a mask of booleans, a word or a region, not numbers"):
        knock_out(embedded, CASE, "red", where=torch.rand(4, 4), measures=len)
    with pytest.raises(ValueError, match=r"\[frames, h, w\] of a video, with some places, not \[1, 1, 4, 4\]"):
        knock_out(embedded, CASE, "red", where=torch.ones(1, 1, 4, 4) > 0, measures=len)
    with pytest.raises(ValueError, match=r"a mask .* with some places"):
        knock_out(embedded, CASE, "red", where=torch.zeros(4, 4) > 0, measures=len)


def test_a_job_can_be_told_from_another():
    def id_of(**changes):
        design = KnockOut({"colour": ("{colour}",)}, **changes)
        return Job("model", CASE, design, ("without colour",), {"size": len}).id

    ids = {id_of(), id_of(where=UpperLeft()), id_of(where=torch.ones(2, 2) > 0), id_of(heads=(1,)), id_of(sites="a*")}
    assert len(ids) == 5
    assert id_of(where=UpperLeft()) in ids
    design = KnockOut({"colour": ("{colour}",)}, where=UpperLeft(), in_steps=range(3))
    assert pickle.loads(pickle.dumps(design)) == design


@pytest.mark.parametrize(
    "family", [pytest.param("Stable Diffusion XL", marks=pytest.mark.slow), "Stable Diffusion 3.5", "Flux.1 dev"]
)
def test_other_families(family):
    model = sdprobe.load(FAMILIES[family]())
    result = knock_out(
        model,
        CASE,
        "{colour}",
        heads=[0],
        measures={"size": lambda run: run.latents.abs().mean()},
        steps=1,
        width=16,
        height=16,
        progress=False,
    )
    assert not result.failed
    assert len({row["value"] for row in result.rows}) == 4
