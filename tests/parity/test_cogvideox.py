"""What is special to CogVideoX: one video of each prompt, frames that are added, the scheduler with noise."""

from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXPipeline

import sdprobe
from tests.parity.test_families import CASES, USUAL, assert_same, stock
from tests.stock_pipelines import picture
from tests.tiny_models.cogvideox import cogvideox, cogvideox_image_to_video

VIDEO = USUAL | {"frames": 5}
ONE_OF_EACH = {"images_per_prompt": 1}


@pytest.fixture(scope="module")
def noisy():
    return sdprobe.load(cogvideox(in_pairs=True, noisy=True))


def attached(model, hooks, **asked):
    model.pipe.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 3, "height": 16, "width": 16, "num_frames": 5, "output_type": "pt", **asked}
    with sdprobe.attach(model.pipe, hooks) as run:
        videos = model.pipe("a red circle", generator=torch.Generator().manual_seed(5), **given).frames
    return run, videos


@pytest.mark.parametrize("case", ["two prompts", "non-square", "negative prompt", "no guidance"])
def test_the_scheduler_with_noise_is_told_of_the_step_before(noisy, case):
    assert_same(noisy, **VIDEO | CASES[case] | ONE_OF_EACH | {"steps": 4})


def test_by_default_the_pipeline_makes_one_video_of_a_prompt_and_sample_as_many_as_asked(noisy):
    alone, _ = stock(noisy, **VIDEO | {"prompt": ["a red circle"] * 2})
    run = sdprobe.sample(noisy, progress=False, **VIDEO | {"images_per_prompt": 2})
    assert torch.equal(run.latents, noisy.unpacked(alone))
    run, videos = attached(noisy, [], num_videos_per_prompt=2)
    assert (run.settings.images_per_prompt, len(videos)) == (1, 1)


def test_in_attach_the_scheduler_with_noise_is_what_it_is_in_sample(noisy):
    keep = sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised"))
    run, videos = attached(noisy, [keep], guidance_scale=4.0)
    sampled = sdprobe.sample(noisy, hooks=[keep], progress=False, **VIDEO | {"steps": 3})
    _, plain = attached(noisy, [], guidance_scale=4.0)
    assert torch.equal(videos, plain)
    assert torch.equal(run.latents, sampled.latents)
    for name in keep.keep:
        assert torch.equal(run[keep][name], sampled[keep][name])


def test_a_run_goes_on_with_what_the_scheduler_remembers(noisy):
    points = sdprobe.Checkpoints()
    settings = VIDEO | {"steps": 4}
    whole = sdprobe.sample(noisy, hooks=[points], progress=False, **settings)
    again = sdprobe.resume(whole, step=2, progress=False)
    assert torch.equal(again.latents, whole.latents)


def test_the_frame_that_is_added_is_not_decoded(noisy):
    """Five frames are three of the latents, and two of these are one token."""
    model = noisy
    run = sdprobe.sample(model, hooks=[maps := sdprobe.AttentionMaps()], progress=False, **VIDEO)
    assert run.latents.shape == (1, 4, 4, 8, 8)
    assert run[maps].heat_map("circle").values.shape == (2, 4, 4)
    assert len(run.images) == 5


def test_dynamic_guidance_is_the_pipeline_s_own(noisy):
    looking = sdprobe.LatentRecorder(keep=("noise_pred",))
    _, videos = attached(noisy, [looking], use_dynamic_cfg=True)
    _, plain = attached(noisy, [], use_dynamic_cfg=True)
    _, usual = attached(noisy, [])
    assert torch.equal(videos, plain)
    assert not torch.equal(videos, usual)


def test_one_of_its_schedulers_stands_for_the_other():
    model = sdprobe.load(cogvideox())
    run = sdprobe.sample(model, scheduler="CogVideoXDPM", progress=False, **VIDEO)
    assert run.settings.scheduler == "CogVideoXDPMScheduler"
    model.pipe.scheduler = type(cogvideox(noisy=True).scheduler).from_config(model.pipe.scheduler.config)
    latents, _ = stock(model, **VIDEO)
    assert torch.equal(run.latents, model.unpacked(latents))


def test_a_denoiser_that_is_shown_a_picture_is_for_attach():
    made = cogvideox_image_to_video()
    pipe = CogVideoXPipeline(**made.components)
    with pytest.raises(ValueError, match="CogVideoXImageToVideoPipeline"):
        sdprobe.sample(pipe, "a red circle", frames=5, progress=False)
    again = Again()
    with sdprobe.attach(made, again) as run:
        made(picture(), "a red circle", height=16, width=16, num_frames=5, num_inference_steps=2, output_type="latent")
    assert run[again].same == [True, True]
    assert run.latents.shape == (1, 4, 4, 8, 8)


class Again(sdprobe.Observer):
    def start(self, run):
        self.same = []

    def noise_pred(self, x, step):
        self.same.append(torch.equal(step.predict(step.latents), step.model_output))
