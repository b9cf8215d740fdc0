"""Every ready experiment in every family, by the loop and by a stock pipeline: a table without holes, with controls.

A few of them in newer families are tried in the usual run, and all in all families at night.
"""

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
from tests.families import ASKED, FAMILIES

SETTINGS = {"steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16, "progress": False}
PROMPT, OTHER = "a red circle left of a blue star", "a green ring left of a blue star"


def change(run, untouched):
    return (run.latents - untouched.latents).abs().max()


def mean(run):
    return run.latents.mean()


EXPERIMENTS = {
    "knock_out": lambda model, over, how: knock_out(model, over, {"it": "red"}, measures=change, **how),
    "token_sweep": lambda model, over, how: token_sweep(model, over, measures=change, **how),
    "deletion": lambda model, over, how: deletion(model, over, "circle", shares=[0.3], measures=change, **how),
    "insertion": lambda model, over, how: insertion(model, over, "circle", shares=[0.3], measures=change, **how),
    "patch_sweep": lambda model, over, how: patch_sweep(model, over, OTHER, mean, windows=[range(2)], **how),
    "context_sweep": lambda model, over, how: context_sweep(model, over, OTHER, mean, windows=[range(2)], **how),
    "head_ablation": lambda model, over, how: head_ablation(model, over, change, **how),
    "head_relevance": lambda model, over, how: head_relevance(
        model, {"colour": ["red", "blue"], "shape": ["circle", "star"]}, over, **how
    ),
}
SLOW = ("Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3", "Flux.1 dev")
USUAL = {
    "Qwen-Image": ("knock_out", "token_sweep", "patch_sweep"),
    "Sana": ("knock_out", "context_sweep"),
    "Z-Image": ("patch_sweep",),
    "LTX-Video": ("token_sweep",),
}
"""Experiments that are tried in the usual run, by `sample`."""


def tried():
    """Each family with each experiment and each way."""
    for family in FAMILIES:
        for name in EXPERIMENTS:
            for way in ("sample", "attach"):
                usual = way == "sample" and name in USUAL.get(family, ())
                marks = [] if usual else [pytest.mark.slow if family in SLOW else pytest.mark.nightly]
                yield pytest.param(family, name, way, marks=marks)


def refuses_words_beside(model):
    try:
        model.refuse_beside()
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(("family", "name", "way"), tried())
def test_in_every_family(family, name, way):
    pipe, how = FAMILIES[family](), {**SETTINGS, **ASKED.get(family, {})}
    how.pop("images_per_prompt", None)
    model = sdprobe.load(pipe)
    if name == "head_relevance" and refuses_words_beside(model):
        with pytest.raises(ValueError, match="tokens cannot be put beside"):
            EXPERIMENTS[name](model, cases(PROMPT, seeds=[1]), how)
        return
    if way == "attach":
        # The pipelines of PixArt and Sana know no sizes for networks as small as these.
        model = attached(pipe, **{"use_resolution_binning": False} if family.startswith(("PixArt", "Sana")) else {})
    result = EXPERIMENTS[name](model, cases(PROMPT, seeds=[1]), how)
    assert result.failed == []
    assert any(row["control"] for row in result.rows)
    assert None not in {row["value"] for row in result.rows}
    if name != "head_relevance":  # which changes no picture
        assert any(row["condition"] != "untouched" and not row["unchanged"] for row in result.rows)
    result.plot()
