"""`untouched_run`: one run of a case, with its maps and sites, shared by who asks for it."""

from __future__ import annotations

import torch

import sdprobe
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.untouched_run import untouched_run
from tests.families import FAMILIES
from tests.laws.strategies import run


def test_it_is_the_run_without_hooks_and_its_maps(embedded):
    runner = CaseRunner(sampler_of(embedded), Case("a red circle", seed=2), {"steps": 2, "guidance_scale": 3.0})
    found = untouched_run(runner)
    assert untouched_run(runner) is found
    maps = sdprobe.AttentionMaps()
    plain = run(embedded, maps, seed=2)
    assert torch.equal(found.run.latents, plain.latents)
    assert torch.equal(found.heat_map("red").values, plain[maps].heat_map("red").values)
    assert all(site.heads == 4 and site.kind == "cross" for site in found.sites)


def test_joint_attention():
    model = sdprobe.load(FAMILIES["Flux.1 dev"]())
    found = untouched_run(CaseRunner(sampler_of(model), Case("a red circle"), {"steps": 1, "width": 16, "height": 16}))
    assert {site.kind for site in found.sites} == {"joint"}
    assert found.heat_map("red").values.shape == found.sites[0].grid
