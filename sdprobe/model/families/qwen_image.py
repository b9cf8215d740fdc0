"""Qwen-Image: a language model that reads the prompt in a template, a transformer with joint attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from diffusers import QwenImageImg2ImgPipeline
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.families.one_frame import OneFrame
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments, to_length
from sdprobe.model.text.tokenize_prompt import read_in_template, side_by_side

MASK = "encoder_hidden_states_mask"


class QwenImage(OneFrame):
    """Qwen-Image.

    Qwen2.5-VL reads the prompt inside a template; the denoiser is not shown the template's first tokens, and as many
    tokens as the text has. In joint attention the text comes before the image. Four positions of the latents are one
    token: hooks get latents as ``[images, channels, h, w]``, and only the network gets them packed.

    Guidance is the pipeline's ``true_cfg_scale``: each token of the guided output gets the length of the conditional
    one's. Where no negative prompt is given, `sample` guides away from an empty one; the pipeline is without guidance
    then, and asks for ``negative_prompt=""`` or ``" "``.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("QwenImagePipeline",)
    variants: ClassVar[tuple[str, ...]] = (
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline",
    )
    img2img = QwenImageImg2ImgPipeline
    text_first = True
    separate_calls = True
    ragged = True
    hides_padding = True
    guidance_argument = "true_cfg_scale"

    @property
    def channels(self) -> int:
        return int(self.denoiser.config.in_channels) // self.patch**2

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond", "uncond") if guidance_scale > 1 else ("cond",)

    def roles_asked(self, asked: Mapping[str, Any], settings: Settings) -> tuple[Role, ...]:
        return self.roles(settings.guidance_scale if settings.negative_given else 1.0)

    # Text.

    @property
    def dropped(self) -> int:
        """How many of the template's first tokens the denoiser is not shown."""
        return int(self.pipe.prompt_template_encode_start_idx)

    @property
    def tokens_shown(self) -> int:
        """How many tokens of a text the denoiser is shown at most."""
        return min(int(self.argument("max_sequence_length")), int(self.pipe.tokenizer_max_length))

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        before, after = self.pipe.prompt_template_encode.split("{}")
        shown = self.tokens_shown if encoder is None else int(self.pipe.tokenizer_max_length)
        length, dropped = self.dropped + shown, self.dropped if encoder is None else 0
        own = read_in_template(self.tokenizer, text, before, after, length=length, dropped=dropped)
        return side_by_side(text, {("text_encoder",): own}) if encoder is None else own

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        longest = int(self.argument("max_sequence_length"))
        embeds, mask = self.pipe.encode_prompt(texts, self.device, max_sequence_length=longest)
        return {EMBEDS: embeds} if mask is None else {EMBEDS: embeds, MASK: mask}

    def shown(
        self, states: Shaped[Tensor, "texts tokens width"], lengths: Sequence[int]
    ) -> Shaped[Tensor, "texts shown width"]:
        each = [own[None, self.dropped : length] for own, length in zip(states, lengths, strict=True)]
        longest = max(own.shape[1] for own in each)
        return torch.cat([to_length(own, longest) for own in each])[:, : self.tokens_shown]

    # The loop.

    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        if image is None and latents is not None:
            return latents.to(self.device, self.dtype)
        made = super().start_latents(settings, generator, latents, image)
        return self.unpacked(made, *self.latent_size(settings))

    def entering(self, pipe: Any, pixels: Tensor, timestep: Tensor, settings: Settings, generator: Any) -> Latents:
        size = (settings.images, self.channels, settings.height, settings.width)
        packed: Tensor = pipe.prepare_latents(pixels, timestep, *size, self.dtype, self.device, generator)
        return packed

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        h, w = rows.shape[-2:]
        with self.pipe.transformer.cache_context(conditioning.role or "cond"):
            output = self.pipe.transformer(
                hidden_states=self.packed(rows),
                timestep=timestep.expand(len(rows)).to(rows.dtype) / 1000,
                guidance=None,
                **{MASK: None, **conditioning.arguments},
                img_shapes=[[(1, h // self.patch, w // self.patch)]] * len(rows),
                attention_kwargs={},
                return_dict=False,
            )[0]
        return self.unpacked(output, h, w)

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        cond, uncond = (self.packed(of[role]) for role in ("cond", "uncond"))
        guided = uncond + scale * (cond - uncond)
        lengths, own = (torch.norm(x, dim=-1, keepdim=True) for x in (cond, guided))
        return self.unpacked(guided * (lengths / own), *of["cond"].shape[-2:])

    def size_told(self, call: Mapping[str, Any]) -> tuple[int, ...] | None:
        _, h, w = self._shapes_told(call)[0]
        return h * self.patch, w * self.patch

    def places_told(self, call: Mapping[str, Any]) -> int:
        return sum(prod(shape) for shape in self._shapes_told(call)[1:])

    def _shapes_told(self, call: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """Return the shapes of the image, and of the pictures beside it, as a call tells them for the first row."""
        first = call["img_shapes"][0]
        return first if isinstance(first, list) else [first]

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows places packed"]:
        packed: Tensor = self.pipe._pack_latents(latents.contiguous(), *latents.shape)
        return packed

    def unpacked(self, packed: Shaped[Tensor, "rows places packed"], *size: int) -> Latents:
        factor = self.scale_factor
        latents: Tensor = self.pipe._unpack_latents(packed, *(side * factor for side in size), factor)
        return latents[:, :, 0]
