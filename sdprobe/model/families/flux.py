"""Flux.1: T5 for the tokens and CLIP for the whole prompt, a transformer with joint attention, flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import FluxImg2ImgPipeline
from jaxtyping import Shaped
from torch import Tensor, nn

from sdprobe.core.run import Role, Settings
from sdprobe.model.families.packed_tokens import PackedTokens
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments


class Flux(PackedTokens):
    """Flux.1 dev, which gets the guidance scale as an input, and Flux.1 schnell, which has no guidance.

    Guidance is an input of the network, so there are only rows of the prompt; a negative prompt is ignored, as in the
    pipeline. In joint attention the text comes before the image. Four positions of the latents are one token: hooks get
    latents as ``[images, channels, h, w]``, and only the network gets them packed.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    variants: ClassVar[tuple[str, ...]] = (
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxFillPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
    )
    token_axis = (("text_encoder_2",),)
    pooling: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_first = True
    separate_calls = True
    img2img = FluxImg2ImgPipeline
    patch = 2
    _places: tuple[Any, Tensor] | None = None

    @property
    def channels(self) -> int:
        config = self.denoiser.config  # Fill and Control show the network a picture in further input channels
        return int(config.out_channels or config.in_channels) // self.patch**2

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond",)

    def roles_asked(self, asked: Mapping[str, Any], settings: Settings) -> tuple[Role, ...]:
        guided = settings.negative_given and (asked.get("true_cfg_scale") or 1.0) > 1
        return ("cond", "uncond") if guided else ("cond",)

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, pooled, _ = self.pipe.encode_prompt(texts, None, self.device, 1)
        return {EMBEDS: embeds, "pooled_projections": pooled}

    def besides(self, settings: Settings) -> DenoiserArguments:
        if not self.denoiser.config.guidance_embeds:
            return {}
        return {"guidance": torch.full([settings.images], settings.guidance_scale, device=self.device)}

    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        if image is not None:
            return super().start_latents(settings, generator, latents, image)
        if latents is not None:
            return latents.to(self.device, self.dtype)
        packed, places = self.prepared(settings, generator, None)
        return self._with_places(self.unpacked(packed, *self.latent_size(settings)), places)

    def entering(self, pipe: Any, pixels: Tensor, timestep: Tensor, settings: Settings, generator: Any) -> Latents:
        given = (settings.images, self.channels, settings.height, settings.width, self.dtype, self.device)
        packed, places = pipe.prepare_latents(pixels, timestep, *given, generator)
        return self._with_places(self.unpacked(packed, *self.latent_size(settings)), places)

    def _with_places(self, x: Latents, places: Tensor) -> Latents:
        """Return latents, and keep where the tokens of the image are: the same in every step of a run."""
        self._places = ((x.shape[-2:], x.device, x.dtype), places)
        return x

    def places_of(self, rows: Latents) -> Shaped[Tensor, "places 3"]:
        """Return where the tokens of the image are, as the network gets it."""
        asked = (rows.shape[-2:], rows.device, rows.dtype)
        if self._places is None or self._places[0] != asked:
            h, w = rows.shape[-2:]
            made = self.pipe._prepare_latent_image_ids(len(rows), h // 2, w // 2, rows.device, self.dtype)
            self._places = (asked, made)
        return self._places[1]

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        h, w = rows.shape[-2:]
        with self.pipe.transformer.cache_context("cond"):
            output = self.pipe.transformer(
                hidden_states=self.packed(rows),
                timestep=timestep.expand(len(rows)).to(rows.dtype) / 1000,
                **{"guidance": None, **conditioning.arguments},
                txt_ids=torch.zeros(conditioning.tokens, 3, device=rows.device, dtype=self.pipe.text_encoder.dtype),
                img_ids=self.places_of(rows),
                joint_attention_kwargs={},
                return_dict=False,
            )[0]
        return self.unpacked(output, h, w)

    def attention_kind(self, module: nn.Module) -> str | None:
        # In the later blocks text and image are one stream, whose attention has no separate part for the text.
        return "joint" if super().attention_kind(module) else None

    def asked_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return how a call reads texts, and whether it is given pictures, which may have places of their own."""
        return {**super().asked_of(given), "image": given.get("image")}

    def size_told(self, call: Mapping[str, Any]) -> tuple[int, ...] | None:
        if self._shows_what_was_asked(call):
            return None
        own = self._places_told(call)[0]
        return tuple(int(side) * self.patch for side in own[:, 1:3].amax(0) - own[:, 1:3].amin(0) + 1)

    def places_told(self, call: Mapping[str, Any]) -> int:
        return 0 if self._shows_what_was_asked(call) else len(self._places_told(call)[1])

    def _shows_what_was_asked(self, call: Mapping[str, Any]) -> bool:
        """Whether a call shows the places of the run's size alone; then nothing need be read from the device."""
        h, w = self.latent_size(self.settings)
        return self.asked.get("image") is None and bool(call["hidden_states"].shape[1] == h * w // self.patch**2)

    def _places_told(self, call: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the places of the image and those of other pictures (Kontext), as a call tells them."""
        ids = call["img_ids"][0] if call["img_ids"].ndim == 3 else call["img_ids"]
        return ids[ids[:, 0] == 0], ids[ids[:, 0] != 0]

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows places packed"]:
        """Return latents as the pipeline packs them: four positions become one token."""
        packed: Tensor = self.pipe._pack_latents(latents.contiguous(), *latents.shape)
        return packed

    def unpacked(self, packed: Shaped[Tensor, "rows places packed"], *size: int) -> Latents:
        """Return packed latents as ``[images, channels, h, w]``."""
        factor = self.scale_factor
        latents: Tensor = self.pipe._unpack_latents(packed, *(side * factor for side in size), factor)
        return latents
