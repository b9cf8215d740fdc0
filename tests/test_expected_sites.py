"""Sites that hooks are told of before the first step are those at which they are called."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import ASKED, FAMILIES
from tests.laws.strategies import run
from tests.tiny import stable_diffusion


class Told(sdprobe.Observer):
    """The sites it was told of, and those at which it was called."""

    kinds = ("cross", "joint", "self")
    strict = False  # where attention is linear, there is nothing to see

    def start(self, run):
        self.told, self.called, self.tellings = None, [], 0

    def expect_sites(self, sites):
        assert not self.called
        self.told, self.tellings = list(map(described, sites)), self.tellings + 1

    def attention(self, attn, site):
        self.called.append(described(site))


def described(site):
    return (site.step.index, site.name, site.kind, site.place, site.grid, site.heads, site.image, site.text)


def same_sites(told: list, called: list) -> bool:
    return sorted(map(repr, told)) == sorted(map(repr, called))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hook_is_called_where_it_was_told_in_every_family(name):
    told = Told()
    own = run(sdprobe.load(FAMILIES[name]()), told, **{"steps": 3} | ASKED.get(name, {}))[told]
    assert own.tellings == 1
    assert same_sites(own.told, own.called)


def test_it_is_so_with_zeros_in_the_place_of_a_text_encoder():
    told = Told()
    own = run(sdprobe.load("shapes-joint"), told, steps=2)[told]
    assert same_sites(own.told, own.called)


@pytest.mark.parametrize(
    "settings",
    [
        {"scheduler": "Heun", "steps": 4},
        {"scheduler": "PNDM", "steps": 5},
        {"image": torch.zeros(1, 3, 16, 16), "strength": 0.5, "steps": 4},
        {"guidance_scale": 1.0},
        {"height": 24, "width": 16},
    ],
    ids=str,
)
def test_it_is_so_however_many_calls_a_run_makes(tiny, settings):
    told = Told()
    own = run(tiny, told, **settings)[told]
    assert same_sites(own.told, own.called)


def test_it_is_so_in_a_run_that_is_resumed(tiny):
    told = Told()
    first = run(tiny, sdprobe.Checkpoints(), steps=4)
    own = sdprobe.resume(first, step=2, hooks=[told], progress=False)[told]
    assert {step for step, *_ in own.called} == {2, 3}
    assert same_sites(own.told, own.called)


@pytest.mark.parametrize(
    "limits",
    [
        {"steps": {1}},
        {"sites": "up_blocks.*"},
        {"sites": lambda site: site.grid == (4, 4) and site.step.index == 2},
        {"steps": lambda step: step.sigma < 2, "rows": "cond"},
    ],
    ids=["steps", "patterns", "function of the site", "function of the step"],
)
def test_a_limited_hook_is_told_of_the_sites_within_its_limits(tiny, limits):
    told = Told()
    own = run(tiny, sdprobe.only(told, **limits), steps=4)[told]
    assert own.called
    assert same_sites(own.told, own.called)


def test_what_only_the_run_can_show_is_expected_to_act(tiny):
    told = Told()
    own = run(tiny, sdprobe.only(told, steps=lambda step: bool(step.latents.mean() < -10) or step.index == 1))[told]
    assert len(own.told) == 2 * len(own.called)


def test_an_attached_pipeline_tells_before_its_first_step():
    told, pipe = Told(), stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    with sdprobe.attach(pipe, hooks=[told]) as attached:
        pipe("a red circle", num_inference_steps=3, latents=torch.randn(1, 4, 12, 8))  # another size than it says
    assert same_sites(attached[told].told, attached[told].called)
