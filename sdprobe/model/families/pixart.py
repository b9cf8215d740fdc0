"""PixArt-α and PixArt-Σ: T5, and a transformer with cross-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import (
    ASPECT_RATIO_256_BIN,
    ASPECT_RATIO_512_BIN,
    ASPECT_RATIO_1024_BIN,
)
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import ASPECT_RATIO_2048_BIN
from diffusers.utils import is_bs4_available, is_ftfy_available
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Settings
from sdprobe.core.step import Step
from sdprobe.model.families.transformer import TransformerModel
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments

BINS = {32: ASPECT_RATIO_256_BIN, 64: ASPECT_RATIO_512_BIN, 128: ASPECT_RATIO_1024_BIN, 256: ASPECT_RATIO_2048_BIN}
SIZES = ("resolution", "aspect_ratio")


class PixArt(TransformerModel):
    """PixArt-α and PixArt-Σ.

    The transformer works at the nearest of the sizes it was trained for, and the image is cropped to the size asked
    for, as in the pipeline. The predicted variance (learned sigma) is not used.
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    variants = ("PixArtSigmaPAGPipeline",)
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (2,)})

    @property
    def multiple(self) -> int:
        return 8 if self._bins else math.lcm(8, super().multiple)

    @property
    def _bins(self) -> dict[str, list[float]] | None:
        return BINS.get(self.denoiser.config.sample_size)

    @property
    def _alpha(self) -> bool:
        return type(self.pipe).__name__ == "PixArtAlphaPipeline"

    @property
    def _cleans(self) -> bool:
        return bool(self.argument("clean_caption")) and is_bs4_available() and is_ftfy_available()

    @property
    def sets_begin_index(self) -> bool:
        return self._alpha

    def latent_size(self, settings: Settings) -> tuple[int, int]:
        height, width = self._worked_at(settings)
        return height // self.scale_factor, width // self.scale_factor

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        told = self.spelt(text, self.tokenizer)
        own = super().read(told, encoder)
        lead = text.lower().find(told)
        if lead < 0:  # more than white space was removed: words are located in the rest
            return own
        spans = tuple((a + lead, b + lead) if a < b else (a, b) for a, b in own.spans)
        return replace(own, text=text, spans=spans)

    def spelt(self, text: str, tokenizer: Any) -> str:
        # T5 gets the text in lower case and, if the libraries for it are installed, cleaned.
        cleaned: list[str] = self.pipe._text_preprocessing(text, clean_caption=self._cleans)
        return cleaned[0]

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

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        image = vae.decode(x.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        if self._bins:
            image = self.pipe.image_processor.resize_and_crop_tensor(image, self.settings.width, self.settings.height)
        return self.finished(image)

    def _worked_at(self, settings: Settings) -> tuple[int, int]:
        """Return the height and width, in pixels, at which the transformer works."""
        if self._bins is None:
            return settings.height, settings.width
        found = self.pipe.image_processor.classify_height_width_bin(settings.height, settings.width, ratios=self._bins)
        return int(found[0]), int(found[1])
