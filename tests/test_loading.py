"""Models from the box, a folder, a single file and a live pipeline; and what is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import sdprobe
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion


def test_a_folder_is_the_pipeline_that_was_saved(tmp_path):
    pipe = stable_diffusion(seed=3)
    pipe.save_pretrained(tmp_path)
    expected = run(sdprobe.load(pipe))
    assert same_run(run(sdprobe.load(tmp_path)), expected)
    assert same_run(run(sdprobe.load(str(tmp_path))), expected)


def test_the_pipeline_underneath_is_the_one_given():
    pipe = stable_diffusion()
    model = sdprobe.load(pipe)
    assert model.pipe is pipe
    assert sdprobe.load(model).pipe is pipe


def test_the_box_is_opened_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = sdprobe.load()
    assert type(model.pipe).__name__ == "StableDiffusionPipeline"
    assert model.default_size() == (64, 64)


def test_dtype_and_device(tmp_path):
    stable_diffusion().save_pretrained(tmp_path)
    model = sdprobe.load(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert model.pipe.unet.dtype == model.pipe.text_encoder.dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["no/such/folder", "./nowhere", "nowhere.safetensors", "just-a-word"])
def test_a_path_that_is_not_there(source):
    with pytest.raises(FileNotFoundError, match="neither a file or folder here nor a hub id"):
        sdprobe.load(source)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json"):
        sdprobe.load(tmp_path)


def test_an_unknown_family_names_the_known():
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    pipe = DDPMPipeline(unet, DDPMScheduler())
    with pytest.raises(ValueError, match="DDPMPipeline is of a family not known here; known pipelines: StableDiff"):
        sdprobe.load(pipe)


def test_a_live_pipeline_takes_no_loading_options():
    with pytest.raises(TypeError, match="takes no variant"):
        sdprobe.load(stable_diffusion(), variant="fp16")


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="not int"):
        sdprobe.load(3)
