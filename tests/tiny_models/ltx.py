"""A tiny LTX-Video, with random weights; the pipeline takes multiples of 32 pixels, so 8 of them are one position."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from tests.tiny_models.clip_and_t5 import T5_WIDTH, t5, t5_tokenizer

CHANNELS = 4


def autoencoder(timestep_conditioning: bool = False) -> AutoencoderKLLTXVideo:
    """8 pixels each way and 2 frames are one position; latents are not of zero mean and unit variance."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        timestep_conditioning=timestep_conditioning,
        patch_size=4,
    )
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, CHANNELS))
    vae.latents_std.copy_(torch.linspace(0.5, 1.5, CHANNELS))
    return vae.eval()


def ltx(timestep_conditioning: bool = False) -> LTXPipeline:
    """Two blocks of two heads; with a conditioned decoder, it is told a timestep, and its latents are noised."""
    words = t5_tokenizer()
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=T5_WIDTH,
    )
    return LTXPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        vae=autoencoder(timestep_conditioning),
        text_encoder=t5(words),
        tokenizer=words,
    )
