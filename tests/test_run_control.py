"""What hooks ask of the loop: rows left out of a step, and an end after one; by `sample` and in stock pipelines."""

from __future__ import annotations

import pickle

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

import sdprobe
from sdprobe import attach, only, sample
from sdprobe.core.prompt import Prompt
from sdprobe.core.rows import Row
from sdprobe.stock_pipelines.left_out_of_call import LeftOutOfCall
from tests.configured import made, ours, tried
from tests.families import FAMILIES
from tests.grid import SHOWN, WAYS
from tests.tiny import stable_diffusion

PROMPT = Prompt("", (), (), {})
SETTINGS = {"steps": 5, "guidance_scale": 4.0, "seed": 0, "height": 16, "width": 16, "progress": False}


class Stop(sdprobe.Transform):
    def __init__(self, at):
        self.at = at

    def noise_pred(self, x, step):
        if step.index == self.at:
            step.stop()
        return x


class Seen(sdprobe.Observer):
    def start(self, run):
        self.roles, self.outputs, self.latents = [], [], []

    def model_output(self, x, step):
        self.roles.append(tuple(row.role for row in step.rows))
        self.outputs.append(len(x))

    def noise_pred(self, x, step):
        self.latents.append(step.latents)
        assert len(step.model_output) == len(step.rows)


def tiny():
    return sdprobe.load(stable_diffusion())


@pytest.mark.parametrize("family", [name for name in SHOWN if "PixArt" not in name])
def test_a_stopped_run_is_the_first_steps_of_a_whole_one_both_ways(family):
    model = sdprobe.load(FAMILIES[family]())
    seen = Seen()
    whole = sample(model, "a red circle", hooks=[seen], **SETTINGS)
    runs = [way(model, "a red circle", hooks=[Stop(2), seen], **SETTINGS) for way in WAYS.values()]
    for run in runs:
        assert run.stopped_at == 2
        assert len(run[seen].latents) == 3
        assert all(map(torch.equal, run[seen].latents, whole[seen].latents[:3]))
        assert torch.equal(run.latents, whole[seen].latents[3])  # x_t as it entered the step that was not made
        assert "stopped after step 2" in repr(run)
    assert runs[0].images == runs[1].images
    assert not getattr(model.pipe, "_interrupt", False)


def test_a_pipeline_that_cannot_be_interrupted_says_so():
    model = sdprobe.load(FAMILIES["PixArt-Σ"]())
    assert sample(model, "a red circle", hooks=[Stop(1)], **SETTINGS).stopped_at == 1
    with pytest.raises(RuntimeError, match="PixArtSigmaPipeline has none"):
        WAYS["attach"](model, "a red circle", hooks=[Stop(1)], **SETTINGS)


def test_the_first_to_ask_ends_the_run_also_for_one_image_and_the_record_says_so(tmp_path):
    hooks = [only(Stop(3), rows=[1]), Stop(2), only(Stop(1), rows=[0])]
    run = sample(tiny(), ["a red circle", "a star"], hooks=hooks, **SETTINGS)
    assert run.stopped_at == 1
    assert sdprobe.open(run.save(tmp_path / "run")).stopped_at == 1
    assert pickle.loads(pickle.dumps(run)).stopped_at == 1
    assert sdprobe.compare(run, sample(tiny(), ["a red circle", "a star"], **SETTINGS)).settings["stopped_at"] == (
        1,
        None,
    )


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "PixArt-Σ"])
def test_rows_left_out_are_those_of_a_run_without_guidance(family):
    """In a step without unconditional rows the denoiser sees the batch of a run without guidance, to the last bit."""
    model = sdprobe.load(FAMILIES[family]())
    plain = sample(model, "a red circle", **SETTINGS | {"guidance_scale": 1.0})
    seen = Seen()
    runs = [way(model, "a red circle", hooks=[sdprobe.CutGuidance(), seen], **SETTINGS) for way in WAYS.values()]
    for run in runs:
        assert torch.equal(run.latents, plain.latents)
        assert run[seen].roles == [("cond",)] * 5
        assert run[seen].outputs == [1] * 5


def test_a_cut_off_is_that_of_diffusers():
    """The callback takes the rows away after a step; so does the hook, before the next, and nothing else moves."""
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 5, "guidance_scale": 4.0, "height": 16, "width": 16, "output_type": "latent"}
    seeded = torch.Generator().manual_seed
    callback = SDCFGCutoffCallback(cutoff_step_ratio=0.4)
    stock = pipe("a red circle", generator=seeded(0), callback_on_step_end=callback, **asked).images
    cut = only(sdprobe.CutGuidance(), steps=range(3, 5))
    assert torch.equal(stock, sample(sdprobe.load(pipe), "a red circle", hooks=[cut], **SETTINGS).latents)
    with attach(pipe, hooks=[cut, seen := Seen()]) as run:
        assert torch.equal(stock, pipe("a red circle", generator=seeded(0), **asked).images)
    assert [len(roles) for roles in run[seen].roles] == [2, 2, 2, 1, 1]
    scaled = only(sdprobe.Guidance(1.0), steps=range(3, 5))
    kept = sample(sdprobe.load(pipe), "a red circle", hooks=[scaled], **SETTINGS).latents
    torch.testing.assert_close(stock, kept, atol=1e-5, rtol=1e-4)


def test_each_role_of_three_is_left_out_by_itself():
    """Of InstructPix2Pix: a row that was left out has the output of its image's first row; kept rows have their own."""
    rows = tuple(Row(0, PROMPT, role) for role in ("cond", "image", "uncond"))
    output = torch.tensor([[10.0], [20.0]])
    assert LeftOutOfCall(rows, (0, 1)).widened(output).flatten().tolist() == [10, 20, 10]
    assert LeftOutOfCall(rows, (0, 2)).widened(output).flatten().tolist() == [10, 10, 20]


def test_a_pipeline_that_calls_for_each_role_cannot_leave_one_out():
    pipe = FAMILIES["Flux.1 dev"]()
    with pytest.raises(ValueError, match="a call cannot be left out"), attach(pipe, [sdprobe.CutGuidance()]):
        pipe("a circle", negative_prompt="a star", true_cfg_scale=2.0, num_inference_steps=2, height=16, width=16)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ours())
def test_every_hook_goes_on_where_rows_are_left_out(name, way):
    cut = only(sdprobe.CutGuidance(), steps=[1])
    settings = {**SETTINGS, "steps": 2}
    WAYS[way](tiny(), tried(name).prompt, hooks=[cut, made(name, tiny())], **settings)


def test_further_calls_of_a_step_know_its_rows():
    class Ask(sdprobe.Transform):
        def noise_pred(self, x, step):
            assert torch.equal(step.predict(step.latents), step.model_output)
            assert torch.equal(step.predict(step.latents, role="cond"), step.model_output)
            with pytest.raises(ValueError, match="has no rows of role 'uncond'"):
                step.predict(step.latents, role="uncond")
            return x

    for way in WAYS.values():
        way(
            tiny(),
            ["a red circle", "a star"],
            hooks=[sdprobe.CutGuidance(), Ask()],
            **{**SETTINGS, "seed": [0, 1]},
        )


def test_what_cannot_be_left_out_says_so():
    class Late(sdprobe.Transform):
        def model_output(self, x, step):
            step.leave_out("uncond")
            return x

    class Ask(sdprobe.Transform):
        def __init__(self, role):
            self.role = role

        def latents(self, x, step):
            step.leave_out(self.role)
            return x

    two = ["a red circle", "a star"]
    for hook, error, said in (
        (Late(), RuntimeError, "at latents only"),
        (Ask("cond"), ValueError, "'cond' cannot be left out of step 0; those that can: 'uncond'"),
        (Ask("unconditional"), ValueError, "'unconditional' cannot be left out"),
        (only(sdprobe.CutGuidance(), rows=[1]), ValueError, "limited to 1 of them"),
    ):
        for way in WAYS.values():
            with pytest.raises(error, match=said):
                way(tiny(), two, hooks=[hook], **SETTINGS)
    cached = tiny()
    from_cache = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1001),
        spatial_attention_block_identifiers=("transformer_blocks",),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(cached.denoiser, from_cache)
    with pytest.raises(ValueError, match="a cache of diffusers"):
        sample(cached, "a red circle", hooks=[only(sdprobe.CutGuidance(), steps=[2])], **SETTINGS)
    with pytest.raises(ValueError, match="no guidance to cut"):
        sample(tiny(), "a red circle", hooks=[sdprobe.CutGuidance()], **SETTINGS | {"guidance_scale": 1.0})
