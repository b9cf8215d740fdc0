"""Put trained parts together as the stock pipeline, in the standard folder format."""

import re
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from .joint_model import open_joint
from .tokenizer import build

SCHEDULER: dict[str, object] = {
    # Signal falls almost to zero (root of the last alpha product: .006). With Stable Diffusion's own betas the mean of
    # the latents leaks through the noise, and backgrounds do not obey their word.
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
"""Configuration of the noise schedule and the sampler."""


def pipeline(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel
) -> StableDiffusionPipeline:
    """The parts as a pipeline, saved in a folder."""
    made = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=build(folder / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.save_pretrained(folder)
    return made


def export(folder: Path) -> None:
    """Copy the newest pipeline and CLIP of a training folder to the package's weights.

    The autoencoder is taken from `folder/vae`, whose decoder may have been trained on since the pipeline was saved.
    """
    from . import WEIGHTS

    shutil.copytree(folder / "pipeline", WEIGHTS, dirs_exist_ok=True)
    for part in ("vae", "clip"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, WEIGHTS / part, dirs_exist_ok=True)


def export_joint(folder: Path) -> None:
    """Put the newest pipeline with joint attention of a training folder to the package's weights, as float16.

    Its autoencoder is left out: it is the first model's, and taken from there when it is loaded.
    """
    from . import JOINT_WEIGHTS

    made = open_joint(folder / "joint-pipeline", torch.float16)
    made.register_modules(vae=None)
    made.save_pretrained(JOINT_WEIGHTS)
    for file in JOINT_WEIGHTS.rglob("*.json"):  # the folder of the training means nothing elsewhere
        text = file.read_text()
        file.write_text(re.sub(r'^ *"_name_or_path": .*\n', "", text, flags=re.MULTILINE))
