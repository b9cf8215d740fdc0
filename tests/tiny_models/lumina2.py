"""Tiny Lumina 2: two heads of the query share one of the key, one block of each refiner, two of both together."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from torch import nn

from tests.tiny_models.autoencoder_kl import FLOW, autoencoder
from tests.tiny_models.gemma import gemma, gemma_tokenizer

WIDTH = 32
SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start>"
)
"""The pipeline's own, of which each word is one token here."""


class SmallLumina2Pipeline(Lumina2Pipeline):
    """The pipeline for an autoencoder of two levels; its own takes four for granted."""

    @property
    def vae_scale_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @vae_scale_factor.setter
    def vae_scale_factor(self, taken_for_granted: int) -> None:
        pass


def lumina2(kind: type[Lumina2Pipeline] = SmallLumina2Pipeline, **options: Any) -> Lumina2Pipeline:
    """With an autoencoder of the levels that the pipeline takes for granted."""
    words = gemma_tokenizer([SYSTEM])
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 64, 64),
        cap_feat_dim=WIDTH,
        **options,
    )
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)  # the class begins with small gates, so that blocks add little
    return kind(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=autoencoder(2 if kind is SmallLumina2Pipeline else 4, **FLOW),
        text_encoder=gemma(words, WIDTH),
        tokenizer=words,
    )
