"""Limits that never let a hook act: refused before the first step where that is known, and said at the end."""

from __future__ import annotations

import warnings

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, Hooks, LatentRecorder, ReplaceToken, after, every, only, when
from sdprobe.core.coverage import HookCalls
from sdprobe.testing import footprint
from tests import families
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

STEPS = 10
SWAP = ReplaceToken("circle", with_="star")
MAPS = AttentionMaps()


def never(site):
    return False


UNREACHABLE = [
    (only(SWAP, steps=range(30, 40)), "none of this run's 10, 0 to 9"),
    (only(SWAP, steps=[10]), "none of this run's 10"),
    (only(SWAP, steps={-1}), "none of this run's 10"),
    (only(SWAP, steps=10), "none of this run's 10"),
    (only(SWAP, steps=()), "none of this run's 10"),
    (after(10)(SWAP), "none of this run's 10"),
    (every(3)(only(SWAP, steps=[1, 2, 4])), "none of this run's 10"),
    (only(only(SWAP, steps=range(5)), steps=range(5, 10)), "none of this run's 10"),
    (when(lambda step: step.index > 9)(SWAP), "none of this run's 10"),
    (when(lambda step: step.sigma < 0)(MAPS), "none of this run's 10"),
    (only(SWAP, rows=[4]), r"none of this run's 1 image, counted from 0"),
    (only(SWAP, rows=lambda row: row.image == 4), "none of this run's 1 image"),
    (only(SWAP, sites=never), r"none of the \d+ it is called at"),
    (only(MAPS, sites=never), r"none of the \d+ it is called at"),
    (only(MAPS, sites=lambda site: site.grid == (5, 5)), r"none of the \d+ it is called at"),
    (only(MAPS, sites="*.attn1"), r"none of the \d+ it is called at"),
    (only(LatentRecorder(), steps=range(10, 20)), "none of this run's 10"),
]


@pytest.mark.parametrize(("hook", "said"), UNREACHABLE, ids=[repr(hook) for hook, _ in UNREACHABLE])
def test_what_can_be_known_is_refused_before_the_first_step(tiny, hook, said):
    before, looked = footprint(tiny.pipe), []
    with pytest.raises(ValueError, match=f"would never act: .*{said}"):
        run(tiny, hook, sdprobe.watch("latents", looked.append), steps=STEPS)
    assert looked == []
    assert footprint(tiny.pipe) == before


@pytest.mark.parametrize(
    "make", [families.stable_diffusion_3, families.flux, families.pixart, families.stable_diffusion_xl]
)
def test_in_every_family(make):
    model, settings = sdprobe.load(make()), {"height": 16, "width": 16, "steps": 2, "progress": False}
    for hook in (only(MAPS, steps=[2]), only(MAPS, rows=[1]), only(MAPS, sites=never)):
        with pytest.raises(ValueError, match="would never act"):
            sdprobe.sample(model, "a red circle", hooks=[hook], **settings)
    reached = only(MAPS, sites=lambda site: site.grid is not None and site.heads > 0)
    found = sdprobe.sample(model, "a red circle", hooks=[reached], seed=0, **settings)
    assert found.coverage.hooks[0].total == sum(found.coverage.seen.values())


@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
def test_grids_of_sites_are_known_beforehand(tiny, size):
    height, width = size
    grids = {}
    looked = sdprobe.watch("attention", lambda attn, site: grids.update({site.name: site.grid}))
    found = run(tiny, looked, height=height, width=width)
    assert grids == {name: tiny.grid_at(name, found.settings) for name in grids}


def test_an_integer_is_one_step(tiny):
    recorder = LatentRecorder()
    result = run(tiny, only(recorder, steps=1), steps=3)
    assert result[recorder].indices == [1]
    assert same_run(run(tiny, only(SWAP, steps=1)), run(tiny, only(SWAP, steps=[1])))


@pytest.mark.parametrize("steps", ["all", True, 1.5])
def test_what_are_no_steps(steps):
    with pytest.raises(TypeError, match="steps are numbers such as 5"):
        only(SWAP, steps=steps)


def test_what_only_the_run_can_show_warns_at_its_end(tiny):
    huge = when(lambda step: float(step.latents.abs().max()) > 1e9)(SWAP)
    with pytest.warns(UserWarning, match=r"when\(.*never acted in this run"):
        result = run(tiny, huge)
    assert same_run(result, run(tiny))
    assert result.coverage.hooks == [HookCalls(repr(huge), {"token_embeds": 0})]


def test_it_does_not_warn_of_what_is_not_strict(tiny):
    quiet = when(lambda step: float(step.latents.abs().max()) > 1e9)(AttentionMaps(strict=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tiny, quiet).coverage.hooks[0].total == 0
        assert run(tiny, Hooks(), sdprobe.Progress()).coverage.hooks[0].total > 0


def test_every_hook_counts_the_calls_in_which_it_acted(tiny):
    maps, recorder, late = AttentionMaps(), LatentRecorder(), only(SWAP, steps=range(2, 5))
    coarse = only(ReplaceToken("red", with_="blue"), sites="mid_block.*")
    result = run(tiny, maps, only(recorder, steps=[0, 3]), late, coarse, steps=5)
    own = {name: kind for name, kind in result.coverage.sites.items() if kind == "cross"}
    mid = [name for name in own if name.startswith("mid_block")]
    calls = {counted.hook: counted.calls for counted in result.coverage.hooks}
    assert calls[repr(maps)] == {"attention": 5 * len(own)}
    assert calls["only(LatentRecorder(), steps=[0, 3])"] == {"noise_pred": 2, "final_latents": 1}
    assert calls[repr(late)] == {"token_embeds": 3}
    assert calls[repr(coarse)] == {"token_embeds": 5 * len(mid)}
    assert f"attention {5 * len(own)}" in str(result.coverage)


def test_a_further_call_counts_what_acts_in_it(tiny):
    class Asks(sdprobe.Transform):
        def noise_pred(self, x, step):
            step.predict(step.latents)
            return x

    same = sdprobe.on("attention", lambda attn: attn, modules="mid_block.*")
    alone, asked = run(tiny, same), run(tiny, same, Asks())
    assert asked.coverage.hooks[0].total == 2 * alone.coverage.hooks[0].total
    assert torch.equal(alone.latents, asked.latents)


@pytest.mark.parametrize("hook", [only(SWAP, steps=[10]), only(MAPS, sites=never), only(MAPS, rows=[1])])
def test_attached_too(hook):
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    pipe("a red circle", num_inference_steps=10)  # what the pipeline itself notes on its parts
    before = footprint(pipe)
    with pytest.raises(ValueError, match="would never act"), sdprobe.attach(pipe, [hook]):
        pipe("a red circle", num_inference_steps=10)
    assert footprint(pipe) == before


@pytest.mark.parametrize(
    "hook",
    [
        when(lambda step: step.model_output is not None)(LatentRecorder()),
        only(MAPS, sites=lambda site: site.text is not None),
        only(MAPS, sites=lambda site: site.image.stop > 0),
        when(lambda step: step.latents.device.type == "cpu")(MAPS),
    ],
    ids=repr,
)
def test_what_asks_for_what_is_not_known_yet_is_trusted(tiny, hook):
    assert run(tiny, hook, steps=3).coverage.hooks[0].total > 0


def test_a_limit_keeps_the_words_that_a_hook_brings():
    class Brings(sdprobe.Transform):
        def __init__(self):
            self.brings = {"<x>": sdprobe.Concept({"text_encoder": torch.ones(1, 16)}, "<x>")}

        def noise_pred(self, x, step):
            return x

    assert set(Hooks(only(Brings(), steps=[0])).brings) == {"<x>"}
