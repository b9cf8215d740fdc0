"""`attached`: what a stock pipeline is asked for by an experiment, and which of them run each condition by itself."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.experiment import experiment
from sdprobe.experiments.named_model import name_model
from sdprobe.experiments.sampler import attached, sampler_of, seeded
from tests import stock_pipelines
from tests.families import FAMILIES
from tests.later_stock_pipelines import qwen_edit

SIZE = {"height": 16, "width": 16}


def mean(run):
    return run.latents.mean()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_guidance_scale_by_the_name_that_the_pipeline_has_for_it(scale):
    """In Qwen-Image this is another, and without a negative prompt there is no guidance."""
    model, case = sdprobe.load(FAMILIES["Qwen-Image"]()), Case("a red circle", seed=1)
    settings = {"steps": 2, "guidance_scale": scale, **SIZE}
    own, stock = (CaseRunner(one, case, settings).run().latents for one in (sampler_of(model), attached(model.pipe)))
    assert torch.equal(own, stock)


TRIED = ["image_to_image", "inpainting", "sd3_inpainting", "z_image_image_to_image", "sd3_controlnet"]


@pytest.mark.parametrize("name", [TRIED[1], *(pytest.param(own, marks=pytest.mark.nightly) for own in TRIED)])
def test_a_pipeline_for_more_than_a_text_runs_each_condition_by_itself(name):
    """In one call the pictures of some of them share their noise."""
    pipe, given = getattr(stock_pipelines, name)()
    model = attached(pipe, **{key: own for key, own in given.items() if key not in ("prompt", "generator")})
    weaker = {"weaker": [sdprobe.ScalePrompt(0.5)], "nothing": []}
    result = experiment(model, Case("a red circle", seed=1), weaker, mean, steps=3, progress=False)
    assert not result.failed
    alone = experiment(model, Case("a red circle", seed=1), weaker, mean, batch=1, steps=3, progress=False)
    assert result.rows == alone.rows
    assert [row["unchanged"] for row in result.rows] == [True, False, True]


def test_a_pipeline_for_texts_alone_runs_them_in_one_batch(tiny):
    assert not attached(tiny.pipe).alone
    for make in (stock_pipelines.controlnet, stock_pipelines.instruct_pix2pix, qwen_edit):
        assert attached(make().pipe).alone
        assert name_model(attached(make().pipe)) is None


def test_a_prompt_is_read_as_the_call_reads_it():
    """Beside its pictures, whether these are arguments of the pipeline or the case's own."""
    pipe, given = qwen_edit()
    asked = {name: own for name, own in given.items() if name in ("height", "width")}
    cases = [Case("a red circle", seed=1), Case("a red circle", seed=1, image=given["image"])]
    samplers = [attached(pipe, image=given["image"], **asked), attached(pipe, **asked)]
    for case, sampler in zip(cases, samplers, strict=True):
        runner = CaseRunner(sampler, case, {"steps": 1})
        assert runner.read() == runner.run().prompts[0]
    assert len(runner.read().ids) > len(sampler.model.read("a red circle").ids)


def test_what_is_given_twice_is_refused():
    pipe = sdprobe.load(FAMILIES["Qwen-Image"]()).pipe
    guided = attached(pipe, negative_prompt="a star", **SIZE)
    runner = CaseRunner(guided, Case("a red circle", seed=1), {"steps": 1, "guidance_scale": 3.0})
    assert runner.run().settings.negative_prompt == ("a star",)
    twice = CaseRunner(attached(pipe, true_cfg_scale=3.0, **SIZE), runner.case, runner.settings)
    with pytest.raises(ValueError, match="true_cfg_scale was given to `attached`, and again"):
        twice.run()


def test_draws_without_a_generator_are_those_of_the_seed():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    with seeded(1):
        first = torch.randn(3)
    assert torch.equal(torch.randn(3), expected)
    with seeded(1):
        assert torch.equal(torch.randn(3), first)
