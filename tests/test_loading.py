"""Models from the box, a folder, a single file and a live pipeline; and what is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

import sdprobe
from sdprobe.model.single_file import kind_of
from tests.families import pixart
from tests.laws.strategies import run, same_run
from tests.single_file import save_single_file
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


KEYS = {
    "StableDiffusionPipeline": {"model.diffusion_model.output_blocks.11.0.skip_connection.weight": (1,)},
    "StableDiffusionXLPipeline": {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)},
    "StableDiffusion3Pipeline": {
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
        "model.diffusion_model.pos_embed": (1, 36864, 1),
    },
    "FluxPipeline": {"double_blocks.0.img_attn.norm.key_norm.scale": (1,)},
}
"""Of each kind of file some parameters that it is known by, and their shapes."""


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_the_kind_of_a_single_file_is_told_by_its_names(tmp_path, name, suffix):
    weights, path = {key: torch.zeros(shape) for key, shape in KEYS[name].items()}, tmp_path / f"model.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save({"state_dict": weights}, path)
    assert kind_of(path).__name__ == name


def test_a_single_file_of_another_kind_is_refused(tmp_path):
    save_file(
        {"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(1)},
        tmp_path / "r.safetensors",
    )
    with pytest.raises(ValueError, match=r"'xl_refiner'.*StableDiffusionXLPipeline"):
        sdprobe.load(tmp_path / "r.safetensors")
    pixart().save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="PixArtAlphaPipeline, which is not loaded from one file"):
        sdprobe.load(tmp_path / "r.safetensors", config=str(tmp_path / "folder"))


def test_a_single_file_is_the_pipeline_it_holds(tmp_path):
    pipe = stable_diffusion(seed=4)
    pipe.save_pretrained(tmp_path / "folder")
    save_single_file(pipe, tmp_path / "model.safetensors")
    options = {"config": str(tmp_path / "folder"), "local_files_only": True}
    model = sdprobe.load(tmp_path / "model.safetensors", **options)
    assert same_run(run(model), run(sdprobe.load(pipe)))
