"""`token_sweep`: each token hidden, and each alone; with its controls."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import HideTokens, MixPrompts
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.token_sweep import TokenSweep, parts_of, token_sweep
from tests.families import FAMILIES
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
    empty = run(embedded, MixPrompts({"": 1.0}), prompt="a star", seed=1, steps=1).latents
    assert torch.equal(runner.run(made["an empty prompt"].hooks).latents, empty)


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
