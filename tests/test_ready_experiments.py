"""Every ready experiment in every family, by the loop and by a stock pipeline: a table without holes, with controls."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe.experiments import (
    attached,
    cases,
    context_sweep,
    deletion,
    head_ablation,
    head_relevance,
    insertion,
    knock_out,
    patch_sweep,
    token_sweep,
)
from tests.families import FAMILIES

SETTINGS = {"steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16, "progress": False}
PROMPT, OTHER = "a red circle left of a blue star", "a green ring left of a blue star"


def change(run, untouched):
    return (run.latents - untouched.latents).abs().max()


def mean(run):
    return run.latents.mean()


EXPERIMENTS = {
    "knock_out": lambda model, over: knock_out(model, over, {"it": "red"}, measures=change, **SETTINGS),
    "token_sweep": lambda model, over: token_sweep(model, over, measures=change, **SETTINGS),
    "deletion": lambda model, over: deletion(model, over, "circle", shares=[0.3], measures=change, **SETTINGS),
    "insertion": lambda model, over: insertion(model, over, "circle", shares=[0.3], measures=change, **SETTINGS),
    "patch_sweep": lambda model, over: patch_sweep(model, over, OTHER, mean, windows=[range(2)], **SETTINGS),
    "context_sweep": lambda model, over: context_sweep(model, over, OTHER, mean, windows=[range(2)], **SETTINGS),
    "head_ablation": lambda model, over: head_ablation(model, over, change, **SETTINGS),
    "head_relevance": lambda model, over: head_relevance(
        model, {"colour": ["red", "blue"], "shape": ["circle", "star"]}, over, **SETTINGS
    ),
}
JOINT = {
    "context_sweep": "in joint attention the text is one stream through all sites",
    "head_relevance": "cross-attention",
}
KINDS = {"Stable Diffusion 1": False, "Stable Diffusion XL": False}
KINDS |= {"Stable Diffusion 3": True, "Flux.1 dev": True}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["sample", "attach"])
@pytest.mark.parametrize("family", KINDS)
def test_in_every_family(family, way):
    pipe = FAMILIES[family]()
    model = sdprobe.load(pipe) if way == "sample" else attached(pipe)
    over = cases(PROMPT, seeds=[1])
    for name, run in EXPERIMENTS.items():
        if KINDS[family] and name in JOINT:
            with pytest.raises(ValueError, match=JOINT[name]):
                run(model, over)
            continue
        result = run(model, over)
        assert result.failed == [], name
        assert any(row["control"] for row in result.rows), name
        assert None not in {row["value"] for row in result.rows}, name
        if name != "head_relevance":  # which changes no picture
            assert any(row["condition"] != "untouched" and not row["unchanged"] for row in result.rows), name
        result.plot()
