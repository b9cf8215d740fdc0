"""PixArt-α and PixArt-Σ: T5, and a transformer with cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import (
    ASPECT_RATIO_256_BIN,
    ASPECT_RATIO_512_BIN,
    ASPECT_RATIO_1024_BIN,
)
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import ASPECT_RATIO_2048_BIN
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.run import Settings
from sdprobe.core.step import Step
from sdprobe.model.families.binned_transformer import BinnedTransformer
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments

SIZES = ("resolution", "aspect_ratio")


class PixArt(BinnedTransformer):
    """PixArt-α and PixArt-Σ.

    The predicted variance (learned sigma) is not used.
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    variants = ("PixArtSigmaPAGPipeline",)
    bins = MappingProxyType(
        {32: ASPECT_RATIO_256_BIN, 64: ASPECT_RATIO_512_BIN, 128: ASPECT_RATIO_1024_BIN, 256: ASPECT_RATIO_2048_BIN}
    )
    hides_padding = True
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (2,)})

    @property
    def _alpha(self) -> bool:
        return type(self.pipe).__name__ == "PixArtAlphaPipeline"

    @property
    def sets_begin_index(self) -> bool:
        return self._alpha

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, mask, _, _ = self.pipe.encode_prompt(texts, False, device=self.device, clean_caption=self._cleans)
        return {EMBEDS: embeds, "encoder_attention_mask": mask}

    def besides(self, settings: Settings) -> DenoiserArguments:
        if not (self._alpha and self.denoiser.config.sample_size == 128):
            return {}
        height, width = self._worked_at(settings)
        told = {"resolution": torch.tensor([height, width]), "aspect_ratio": torch.tensor([float(height / width)])}
        return {name: x.repeat(settings.images, 1).to(self.device, self.dtype) for name, x in told.items()}

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        output: Tensor = self.pipe.transformer(
            rows,
            timestep=timestep.to(rows.device).expand(len(rows)),
            **{name: tensor for name, tensor in conditioning.arguments.items() if name not in SIZES},
            added_cond_kwargs={name: conditioning.arguments.get(name) for name in SIZES},
            return_dict=False,
        )[0]
        return output[:, : self.channels]

    def advance(self, noise_pred: Latents, step: Step, x: Latents, options: Mapping[str, Any]) -> Latents:
        if not (self._alpha and step.run.settings.steps == 1):
            return super().advance(noise_pred, step, x, options)
        # A model distilled to one step: the pipeline uses the scheduler's predicted x0.
        x0: Tensor = self.pipe.scheduler.step(noise_pred, self.timestep(step), x, **options, return_dict=False)[-1]
        return x0
