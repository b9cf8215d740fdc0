"""In every family, an attached pipeline is `sample`, and the stock pipeline: the same values at every point."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.core.hook import POINTS
from sdprobe.stock_pipelines.attach import attach
from sdprobe.testing import footprint, stock_arguments
from tests.families import ASKED, FAMILIES, OLDER
from tests.further_stock_pipelines import FURTHER
from tests.grid import SHOWN
from tests.later_stock_pipelines import LATER
from tests.laws.strategies import affine, same_run, same_values, seen
from tests.stock_pipelines import ON_THE_WAY, OTHERS, Stock, called

CASES = {
    "guidance": {},
    "no guidance": {"guidance_scale": 1.0},
    "two prompts, two images of each": {"prompt": ["a red circle", "a star of blue"], "images": 2},
    "non-square, negative prompt": {"height": 16, "width": 32, "negative_prompt": "a green square"},
}
LAYERS = ("*to_q",)


def at(point):
    """What looks at one point, in any network."""
    hook = seen(point)
    hook.modules = LAYERS if point == "activation" else None
    return hook


def changing(point):
    hook = affine(point, 1.1, 0.25)
    hook.modules = LAYERS if point == "activation" else None
    return hook


@pytest.mark.parametrize(
    ("family", "case"),
    [
        pytest.param(family, case, marks=[pytest.mark.nightly] * (family not in OLDER))
        for family in FAMILIES
        for case in CASES
        if case == "guidance" or family in SHOWN
    ],
)
def test_attach_is_sample(family, case):
    pipe = FAMILIES[family]()
    pipe.set_progress_bar_config(disable=True)
    asked = {"height": 16, "width": 16, **CASES[case]}
    prompt, images = asked.pop("prompt", "a red circle"), asked.pop("images", 1)
    if isinstance(prompt, list) and family.startswith(("PixArt", "Sana", "Qwen-Image", "Lumina")) and images > 1:
        images = 1  # with several of both, the pipeline itself shows one prompt's picture another's mask
    if family.startswith("Flux"):
        asked.pop("negative_prompt", None)  # which without a scale of its own it leaves out
    stock, watching = Stock(pipe, {}), [at(point) for point in POINTS]
    settings = {"steps": 2, "images_per_prompt": images, "guidance_scale": 3.0} | asked | ASKED.get(family, {})
    theirs = stock_arguments(sdprobe.load(pipe), settings | {"prompt": prompt})
    theirs.pop("prompt")
    ours = {"seed": 0, "progress": False, **settings}
    if "negative_prompt" in theirs:  # whether it was given is a setting
        ours["negative_prompt"] = theirs["negative_prompt"]
    expected = called(stock, prompt, **theirs)
    for stack in ([], [changing(point) for point in POINTS]):
        with attach(pipe, [*stack, *watching]) as run:
            found = called(stock, prompt, **theirs)
        sampled = sdprobe.sample(pipe, prompt, hooks=[*stack, *watching], **ours)
        assert torch.equal(found, expected) == (not stack)
        assert same_run(run, sampled)
        assert run.settings == sampled.settings
        assert run.prompts == sampled.prompts
        for point, watch in zip(POINTS, watching, strict=True):
            assert same_values(run[watch].values, sampled[watch].values), point


SLOW = {"qwen_edit_inpainting", "qwen_edit_of_several"}  # of a million pixels


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[pytest.mark.slow] * (make.__name__ in SLOW)) for make in (*OTHERS, *FURTHER, *LATER)],
)
def test_looking_changes_nothing_and_every_point_changes_the_picture(make):
    stock = make()
    asked = {"num_inference_steps": 3 if "strength" in stock.given else 2}
    expected, watching = called(stock, **asked), [at(point) for point in POINTS]
    before = footprint(stock.pipe)
    with attach(stock.pipe, watching) as run:
        assert torch.equal(called(stock, **asked), expected)
    assert footprint(stock.pipe) == before
    silent = [watch.point for watch in watching if not run[watch].values]
    assert silent == ([] if run.model.pooling else ["pooled_embeds"])
    assert torch.equal(run[watching[-2]].values[0], run.latents)
    for point in ON_THE_WAY:
        with attach(stock.pipe, changing(point)):
            assert not torch.equal(called(stock, **asked), expected), point


class Asks(sdprobe.Transform):
    """Asks the denoiser again, for the same latents: for all rows, and for one role."""

    def start(self, run):
        self.same = []

    def noise_pred(self, x, step):
        every, cond = step.predict(step.latents), step.predict(step.latents, role="cond")
        self.same.append(torch.allclose(every, step.model_output, atol=1e-5))
        self.same.append(torch.allclose(cond, step.model_output[step.rows_of("cond")], atol=1e-5))
        return x


@pytest.mark.parametrize("make", [make for make in OTHERS if make.__name__ in ("flux_guided", "sd3_controlnet")])
def test_the_denoiser_can_be_asked_again(make):
    stock, hook = make(), Asks()
    with attach(stock.pipe, hook) as run:
        called(stock, num_inference_steps=2)
    assert run[hook].same == [True] * 4
