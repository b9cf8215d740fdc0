"""`token_sweep`: each token hidden, and each alone; with its controls."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import HideTokens
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import NotInThisCase
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.shown_tokens import shown_tokens
from sdprobe.experiments.token_sweep import TokenSweep, parts_of, token_sweep
from sdprobe.model.text.conditioning import MASKS
from tests.families import FAMILIES, OLDER
from tests.laws.strategies import run

CASE = Case("a star", seed=1)


def test_without_each_token_and_with_nothing_but_it(embedded):
    prompt = embedded.read(CASE.prompt)
    every = {*range(len(prompt.ids))}
    runner = CaseRunner(sampler_of(embedded), CASE, {"steps": 1, "guidance_scale": 3.0})
    made = TokenSweep().conditions(CASE, runner)
    for word, name in (("star", "2"), ("<pad>", "<pad>")):
        without, alone = (runner.run(made[f"{kind} {name}"].hooks).latents for kind in ("without", "nothing but"))
        others = sorted(every - {*prompt.positions(word)})
        assert torch.equal(without, run(embedded, HideTokens(word), prompt="a star", seed=1, steps=1).latents)
        assert torch.equal(alone, run(embedded, HideTokens(others), prompt="a star", seed=1, steps=1).latents)
    assert made["without 2"].labels == {"token": "star", "position": 2, "token is": "hidden"}
    assert made["nothing but <pad>"].labels == {"token": "<pad>", "position": 4, "token is": "kept"}


def test_the_parts_are_the_whole_prompt(embedded):
    for text in ("a star", "a checkered ring left of a green star"):
        prompt = embedded.read(text)
        found = [position for own in parts_of(prompt, spelt=True).values() for position in own]
        assert sorted(found) == [*range(len(prompt.ids))]


def test_controls(embedded):
    runner = CaseRunner(sampler_of(embedded), CASE, {"steps": 1, "guidance_scale": 3.0})
    made = TokenSweep().conditions(CASE, runner)
    controls = [name for name, own in made.items() if own.control]
    assert controls == ["nothing but <start>", "without one token of padding", "an empty prompt"]
    (hook,) = made["without one token of padding"].hooks()
    assert {*hook.words} < {*embedded.read("a star").positions("<pad>")}
    assert made["an empty prompt"].prompt == ""


def test_an_empty_prompt_is_run_by_itself(embedded):
    settings = {"measures": {"mean": lambda run: run.latents.mean()}, "steps": 1, "guidance_scale": 3.0}
    found = token_sweep(embedded, CASE, progress=False, **settings)
    empty = run(embedded, prompt="", seed=1, steps=1).latents
    assert found.values("an empty prompt", "mean") == [float(empty.mean())]


def test_a_prompt_that_fills_the_context_has_no_padding_to_hide(embedded):
    runner = CaseRunner(sampler_of(embedded), Case("a star " * 40), {"steps": 1})
    with pytest.raises(NotInThisCase, match="fills the context"):
        TokenSweep().conditions(runner.case, runner)["without one token of padding"].hooks()


@pytest.mark.parametrize("family", ["PixArt-α", "Sana", "Qwen-Image", "Lumina 2", "Z-Image"])
def test_a_model_that_hides_the_padding(family):
    """Nothing is asked of tokens that the denoiser is not shown, and the controls are others."""
    size = {"Sana": (64, 96), "Z-Image": (16, 24)}.get(family, (16, 16))
    own = {"measures": {"size": lambda run: run.latents.abs().mean()}, "steps": 1, "height": size[0], "width": size[1]}
    result = token_sweep(sdprobe.load(FAMILIES[family]()), "a star", progress=False, **own)
    assert not result.failed
    assert not any(row["unchanged"] for row in result.rows if row["condition"] != "untouched")
    controls = {row["condition"] for row in result.rows if row["control"]}
    assert controls >= {"without one token of no word", "an empty prompt"}
    assert not any("<pad>" in name for name in result.conditions)


@pytest.mark.parametrize("family", [*OLDER[::3], *(pytest.param(own, marks=pytest.mark.nightly) for own in FAMILIES)])
def test_which_models_hide_the_padding(family):
    """Those with a mask of the text, which has as many tokens as are no padding, or with no padding at all."""
    model = sdprobe.load(FAMILIES[family]())
    with torch.no_grad():
        told = model.encoded(["a red circle"])
    masks = [mask for name in MASKS if (mask := told.get(name)) is not None]
    assert model.hides_padding == (model.ragged or bool(masks))
    prompt = model.read("a red circle")
    assert not (model.ragged and "pad" in prompt.roles)
    for mask in masks:
        assert mask[0].bool().nonzero().flatten().tolist() == shown_tokens(prompt, hides_padding=True)


def test_the_start_of_a_prompt_is_that_of_any(embedded):
    """It is read from left to right, so what the start alone is enough for is not from the prompt."""
    alone = [
        run(embedded, HideTokens(range(1, 32)), prompt=text, steps=1).latents for text in ("a red star", "a blue ring")
    ]
    assert torch.allclose(*alone, atol=1e-4)


@pytest.mark.slow
def test_a_condition_is_called_by_its_token_where_there_is_one_prompt(tiny):
    own = {"measures": {"size": lambda run: run.latents.abs().mean()}, "steps": 1, "progress": False}
    assert "without 2 'star'" in token_sweep(tiny, CASE, **own).conditions
    assert "without 2" in token_sweep(tiny, ["a star", "a ring"], **own).conditions


@pytest.mark.slow
def test_joint_attention():
    model = sdprobe.load(FAMILIES["Flux.1 dev"]())
    own = {"measures": {"size": lambda run: run.latents.abs().mean()}, "steps": 1, "width": 16, "height": 16}
    result = token_sweep(model, "a star", progress=False, **own)
    assert not result.failed
    assert "nothing but <start>" not in result.conditions  # T5 has no such token
