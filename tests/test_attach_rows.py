"""What the rows of an attached pipeline are: what it shows its denoiser, call by call."""

from __future__ import annotations

import pytest
import torch
from diffusers.callbacks import (
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)

import sdprobe
from sdprobe import AttentionMaps
from sdprobe.stock_pipelines.attach import attach
from tests.families import stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import affine, seen
from tests.stock_pipelines import (
    Stock,
    attached,
    called,
    controlnet_guessing,
    flux_guided,
    image_to_image,
    instruct_pix2pix,
    text_to_image,
    xl_controlnet,
    xl_image_to_image,
    xl_inpainting,
)


@pytest.fixture(scope="module")
def stock() -> Stock:
    return text_to_image()


class Rows(sdprobe.Observer):
    def start(self, run):
        self.rows = None

    def model_output(self, x, step):
        assert len(x) == len(step.rows)
        self.rows = [(row.image, row.prompt.text, row.role) for row in step.rows]


def test_rows_are_what_the_pipeline_really_shows_its_denoiser(stock):
    hook = Rows()
    found = attached(stock, hook, prompt=["a star", "a ring"], negative_prompt=["a", "b"], num_images_per_prompt=2)
    negative = [(0, "a", "uncond"), (1, "a", "uncond"), (2, "b", "uncond"), (3, "b", "uncond")]
    positive = [(0, "a star", "cond"), (1, "a star", "cond"), (2, "a ring", "cond"), (3, "a ring", "cond")]
    assert found[hook].rows == negative + positive
    assert attached(stock, hook, prompt="a star", guidance_scale=1.0)[hook].rows == [(0, "a star", "cond")]


def test_three_way_guidance_has_three_roles_in_the_pipeline_s_own_order():
    stock, hook, output = instruct_pix2pix(), Rows(), seen("model_output")
    guided = seen("noise_pred")
    run = attached(stock, hook, output, guided, negative_prompt="a star")
    assert run[hook].rows == [(0, "a red circle", "cond"), (0, "a star", "image"), (0, "a star", "uncond")]
    cond, image, uncond = run[output].values[0]
    expected = uncond + 3.0 * (cond - image) + 1.5 * (image - uncond)
    assert torch.equal(run[guided].values[0][0], expected)
    # "image" is shown the picture and not the prompt, "uncond" neither: without a picture's pull they are one.
    dull = attached(stock, output, image=torch.zeros(1, 4, 8, 8), negative_prompt="a star")
    _, image, uncond = dull[output].values[0]
    assert torch.allclose(image, uncond, atol=1e-6)


def test_roles_are_what_the_pipeline_shows_though_the_family_has_but_one():
    """Flux with a negative prompt and a scale of its own for it is asked twice a step."""
    stock, maps = flux_guided(), AttentionMaps(rows="both")
    with attach(stock.pipe, maps) as run:
        plain = called(stock)
    assert run.roles == ("cond", "uncond")
    assert run[maps].heat_map("circle").values.shape == run[maps].heat_map("star", role="uncond").values.shape == (4, 4)
    with attach(stock.pipe, sdprobe.Guidance(5.0)):
        guided = called(stock)
    assert torch.equal(guided, called(stock, true_cfg_scale=5.0))
    with attach(stock.pipe, sdprobe.only(affine("prompt_embeds", 0.5, 0.25), rows="uncond")):
        assert not torch.equal(called(stock), plain)
    with attach(stock.pipe, sdprobe.SelfAttentionGuidance()):
        assert not torch.equal(called(stock), plain)


def test_rows_of_the_picture_alone_are_of_the_negative_prompt():
    stock = instruct_pix2pix()
    with attach(stock.pipe, sdprobe.LatentRecorder()) as run:
        called(stock, negative_prompt="a star")
    assert [run.prompt_of(0, role).text for role in run.roles] == ["a red circle", "a star", "a star"]


# Guidance that is cut off.


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return Stock(pipe, {})


CUT_OFF = {
    "text to image": (text_to_image, SDCFGCutoffCallback),
    "image to image": (image_to_image, SDCFGCutoffCallback),
    "ControlNet that guesses": (controlnet_guessing, SDCFGCutoffCallback),
    "XL": (lambda: quiet(stable_diffusion_xl()), SDXLCFGCutoffCallback),
    "XL image to image": (xl_image_to_image, SDXLCFGCutoffCallback),
    "XL inpainting": (xl_inpainting, SDXLCFGCutoffCallback),
    "XL ControlNet": (xl_controlnet, SDXLControlnetCFGCutoffCallback),
    "SD 3": (lambda: quiet(stable_diffusion_3()), SD3CFGCutoffCallback),
}
"""Where diffusers' own cut-off of guidance works without us."""


class Roles(sdprobe.Observer):
    """The roles of the rows at three points of each step."""

    def start(self, run):
        self.before, self.at, self.after = [], [], []

    def latents(self, x, step):
        self.before.append(tuple(row.role for row in step.rows))

    def model_output(self, x, step):
        assert len(x) == len(step.rows)
        self.at.append(tuple(row.role for row in step.rows))

    def noise_pred(self, x, step):
        self.after.append(tuple(row.role for row in step.rows))


@pytest.mark.parametrize("name", CUT_OFF)
def test_rows_left_by_a_cut_off_of_guidance_are_the_conditional_ones(name):
    make, cut_off = CUT_OFF[name]
    stock = make()
    steps = 6 if "strength" in stock.given else 4

    def made(*hooks, prompt="a red circle"):
        cut = cut_off(cutoff_step_ratio=None, cutoff_step_index=1)
        with attach(stock.pipe, hooks) as run:
            return called(stock, prompt, num_inference_steps=steps, callback_on_step_end=cut), run

    cut = cut_off(cutoff_step_ratio=None, cutoff_step_index=1)
    expected = called(stock, num_inference_steps=steps, callback_on_step_end=cut)
    roles, maps, own = Roles(), AttentionMaps(keep=("step",)), seen("model_output")
    found, run = made(roles, maps, own)
    assert torch.equal(found, expected)
    count = len(run[roles].at)
    assert run[roles].before == run[roles].at == run[roles].after
    assert run[roles].at == [("uncond", "cond")] * 2 + [("cond",)] * (count - 2)
    assert [len(x) for x in run[own].values] == [2, 2] + [1] * (count - 2)
    assert {key.step for key in run[maps].sums} == set(range(count))
    # Guidance of the run's own scale is what it was; there is nothing to change of it once it is cut off.
    assert torch.equal(made(sdprobe.Guidance(3.0))[0], expected)
    # Limits know the rows: after the cut-off the conditional rows are all there are.
    late, change = range(2, steps), affine("model_output", 1.1, 0.25)
    by_role = made(sdprobe.only(change, steps=late, rows="cond"))[0]
    assert torch.equal(by_role, made(sdprobe.only(change, steps=late))[0])
    assert not torch.equal(by_role, expected)
    assert torch.equal(made(sdprobe.only(change, steps=late, rows="uncond"))[0], expected)
    swap = sdprobe.only(sdprobe.ReplaceToken("circle", "star"), steps=range(steps))
    assert torch.equal(made(swap)[0], made(prompt="a red star")[0])
    assert not torch.equal(made(sdprobe.PerturbedAttention(scale=1.0))[0], expected)


def test_hooks_that_steer_go_on_after_a_cut_off(stock):
    def made(hook):
        cut = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
        return attached(stock, hook, num_inference_steps=4, callback_on_step_end=cut)[hook]

    for hook in (
        sdprobe.AttendAndExcite(["circle"], stop=4, thresholds={}),
        sdprobe.LayoutGuidance({"circle": (0.0, 0.0, 0.5, 0.5)}, stop=4),
    ):
        assert made(hook).indices == [0, 1, 2, 3]
        assert (made(hook).changes > 0).all()


def test_guidance_by_blur_is_of_the_rows_there_are(stock):
    """After the cut-off it is what it is in a run that never had guidance."""
    hook, output, guided = sdprobe.SelfAttentionGuidance(), seen("model_output"), seen("noise_pred")

    class Start(sdprobe.Transform):
        def latents(self, x, step):
            return torch.ones_like(x) * 0.3 if step.index == 1 else x

    cut = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    runs = [
        attached(stock, Start(), hook, output, guided, num_inference_steps=2, **asked)
        for asked in ({"callback_on_step_end": cut}, {"guidance_scale": 1.0})
    ]
    for watch in (output, guided):
        assert torch.equal(runs[0][watch].values[1], runs[1][watch].values[1])


def test_guidance_that_a_callback_puts_on_is_seen_too(stock):
    def put_on(pipe, index, timestep, values):
        if index == 0:
            pipe._guidance_scale = 3.0
            return {"prompt_embeds": torch.cat(pipe.encode_prompt("a red circle", "cpu", 1, True)[:2][::-1])}
        return {}

    asked = {"guidance_scale": 1.0, "callback_on_step_end": put_on}
    asked["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
    roles, rows, expected = Roles(), Rows(), called(stock, **asked)
    with attach(stock.pipe, [roles, rows]) as run:
        assert torch.equal(called(stock, **asked), expected)
    assert run[roles].at == [("cond",), ("uncond", "cond"), ("uncond", "cond")]
    assert run[rows].rows == [(0, "", "uncond"), (0, "a red circle", "cond")]
