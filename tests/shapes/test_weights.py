"""The shipped weights: whole, small, loadable without a network, and good enough to be of use."""

import json
import os
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPTokenizer, VisionTextDualEncoderModel

from sdprobe.shapes import WEIGHTS, scene
from sdprobe.shapes.train_autoencoder import psnr, to_tensor
from sdprobe.shapes.train_clip import figures, image_features, pictures


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return StableDiffusionPipeline.from_pretrained(WEIGHTS, local_files_only=True)


@pytest.fixture(scope="module")
def clip() -> VisionTextDualEncoderModel:
    return VisionTextDualEncoderModel.from_pretrained(WEIGHTS / "clip", local_files_only=True).eval()


def test_folder_is_small() -> None:
    assert sum(os.path.getsize(file) for file in WEIGHTS.rglob("*") if file.is_file()) <= 15 * 2**20


def test_folder_is_a_stock_pipeline() -> None:
    index = json.loads((WEIGHTS / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert index["requires_safety_checker"] is False


def test_pipeline_draws(pipeline: StableDiffusionPipeline) -> None:
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64
    image = pipeline(
        "a red circle", num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images[0]
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()


@torch.no_grad()
def test_autoencoder(pipeline: StableDiffusionPipeline) -> None:
    held_out = to_tensor([scene(50_000_000 + k).image for k in range(64)])
    assert psnr(pipeline.vae, held_out) >= 28
    latents = (
        pipeline.vae.encode(held_out[:32].float() / 127.5 - 1).latent_dist.mean * pipeline.vae.config.scaling_factor
    )
    assert latents.shape[1:] == (4, 16, 16)
    assert 0.7 < float(latents.std()) < 1.3


def test_clip_names_what_it_sees(clip: VisionTextDualEncoderModel) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "clip", local_files_only=True)
    reached = figures(clip, tokenizer, count=200, seed=60_000_000)
    assert reached["colour"] >= 0.99
    assert reached["shape"] >= 0.98
    assert reached["swapped_colours"] >= 0.95
    assert reached["background"] >= 0.75


@torch.no_grad()
def test_clip_processor_is_the_one_of_training(clip: VisionTextDualEncoderModel) -> None:
    processor = CLIPImageProcessor.from_pretrained(WEIGHTS / "clip", local_files_only=True)
    images = [scene(k).image for k in range(3)]
    processed = clip.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    own = image_features(clip, pictures([scene(k) for k in range(3)]))
    assert torch.allclose(torch.nn.functional.normalize(processed, dim=-1), own, atol=1e-4)
