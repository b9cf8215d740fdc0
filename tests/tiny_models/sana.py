"""A tiny Sana with random weights."""

from __future__ import annotations

from inspect import signature

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

from tests.tiny_models.gemma import gemma, gemma_tokenizer

WIDTH = 32


def deep_autoencoder(levels: int = 4, channels: int = 4) -> AutoencoderDC:
    """Its factor is 2 to the power of one less than its levels."""
    widths, layers = (channels,) * levels, (1,) * levels
    return AutoencoderDC(
        latent_channels=channels,
        attention_head_dim=2,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * levels,
        decoder_qkv_multiscales=((),) * levels,
        scaling_factor=0.41407,
    ).eval()


def sana(sample_size: int = 8, qk_norm: str | None = None, levels: int = 4) -> SanaPipeline:
    """Two blocks. Of a sample size for which the pipeline knows sizes (16), its autoencoder is of the usual factor."""
    instruction = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    words = gemma_tokenizer(instruction)
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        mlp_ratio=2.0,
        sample_size=sample_size,
        patch_size=2 if levels == 4 else 1,
        qk_norm=qk_norm,
    )
    return SanaPipeline(
        tokenizer=words,
        text_encoder=gemma(words, WIDTH),
        vae=deep_autoencoder(levels),
        transformer=transformer.eval(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
    )
