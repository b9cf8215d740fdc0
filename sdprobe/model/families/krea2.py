"""Krea 2: several layers of a language model, a transformer with text and image on one axis and grouped queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sdprobe.core.prompt import Prompt, TokenRole
from sdprobe.core.run import Role, Settings
from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.families.one_frame import OneFrame
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments
from sdprobe.model.text.tokenize_prompt import read_in_template, side_by_side

MASK, POSITIONS = "encoder_attention_mask", "position_ids"


class Krea2(OneFrame):
    """Krea 2.

    Qwen3-VL reads the prompt inside a template, padded before the template's end; the denoiser is not shown its first
    tokens. Of each token it is shown the states of several layers: hooks get them side by side, ``[batch, tokens,
    layers · width]``. Text fusion blocks attend over the layers of each token, which are no sites, and then over the
    text's tokens (sites of kind ``"text"``); the other blocks have the text, then the image, on one axis. Their keys
    and values are made for fewer heads than the queries and copied for each.

    Guidance is ``cond + guidance_scale · (cond - uncond)``, at scales above 0: 0 is no guidance.
    """

    pipelines = ("Krea2Pipeline",)
    text_first = True
    hides_padding = True
    separate_calls = True
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (0,)})

    @property
    def patch(self) -> int:
        return int(self.pipe.patch_size)

    @property
    def channels(self) -> int:
        return int(self.denoiser.config.in_channels) // self.patch**2

    def default_size(self) -> tuple[int, int]:
        return int(self.default("height")), int(self.default("width"))

    # Guidance.

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond", "uncond") if guidance_scale > 0 else ("cond",)

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        return of["cond"] + scale * (of["cond"] - of["uncond"])

    def usual_scale(self, scale: float) -> float:
        return 1 + scale

    # Text.

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        if encoder is None:
            own = self.read(text, "text_encoder")
            dropped = int(self.pipe.prompt_template_encode_start_idx)
            return side_by_side(text, {("text_encoder",): own.at(range(dropped, len(own.ids)))})
        before, after = self.pipe.prompt_template_encode_prefix, self.pipe.prompt_template_encode_suffix
        added = list(self.tokenizer(after).input_ids)
        length = self.length("text_encoder") - len(added)
        own = read_in_template(self.tokenizer, text, before, length=length, padded=True)
        ids, tokens = [*own.ids, *added], [*own.tokens, *self.tokenizer.convert_ids_to_tokens(added)]
        ending: list[TokenRole] = ["end" for _ in added]
        return Prompt.from_spans(text, ids, tokens, [*own.roles, *ending], [*own.spans, *[(0, 0) for _ in added]])

    def length(self, encoder: str) -> int:
        return int(self.argument("max_sequence_length")) + int(self.pipe.prompt_template_encode_start_idx)

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        longest = int(self.argument("max_sequence_length"))
        embeds, mask = self.pipe.encode_prompt(texts, self.device, max_sequence_length=longest)
        return {EMBEDS: embeds.flatten(2), MASK: mask}

    def embeds_returned(self, told: DenoiserArguments) -> Shaped[Tensor, "texts tokens layers width"]:
        by_layer: Tensor = told[EMBEDS].unflatten(-1, (len(self.pipe.text_encoder_select_layers), -1))
        return by_layer

    def call_by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, EMBEDS: kwargs[EMBEDS].flatten(2)}

    def call_as_made(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, self._told(kwargs)

    def _told(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments with prompt embeddings layer by layer, as the denoiser is told them."""
        told = {**call, EMBEDS: self.embeds_returned(call)}
        if (places := call.get(POSITIONS)) is not None:  # further tokens of text are where all are
            more = call[EMBEDS].shape[1] + call["hidden_states"].shape[1] - len(places)
            told[POSITIONS] = torch.cat([places.new_zeros(more, places.shape[-1]), places])
        return told

    def shown(
        self, states: Shaped[Tensor, "texts tokens width"], lengths: Sequence[int]
    ) -> Shaped[Tensor, "texts shown width"]:
        raise ValueError(
            f"Krea 2 is shown the states of layers {', '.join(map(str, self.pipe.text_encoder_select_layers))} side by "
            f"side, so those of one layer cannot stand for its prompt embeddings"
        )

    # The loop.

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        mu = 1.15 if self.pipe.config.is_distilled else self.shift(scheduler, settings, 1.15)
        self.set_sigmas(scheduler, settings, device, mu=mu)

    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        if image is None and latents is not None:
            return latents.to(self.device, self.dtype)
        made = super().start_latents(settings, generator, latents, image)
        return self.unpacked(made, *self.latent_size(settings))

    def attention_kind(self, module: nn.Module) -> str | None:
        if super().attention_kind(module) is None:
            return None
        if any(module is block.attn for block in self.denoiser.text_fusion.refiner_blocks):
            return "text"
        return "joint" if any(module is block.attn for block in self.denoiser.transformer_blocks) else None

    def layout(self, settings: Settings) -> Layout:
        return replace(super().layout(settings), one_stream=True)

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        h, w = rows.shape[-2:]
        grid = (h // self.patch, w // self.patch)
        output = self.pipe.transformer(
            hidden_states=self.packed(rows),
            timestep=(timestep / self.pipe.scheduler.config.num_train_timesteps).expand(len(rows)).to(rows.dtype),
            position_ids=self.pipe.prepare_position_ids(conditioning.tokens, *grid, rows.device),
            **self._told(conditioning.arguments),
            attention_kwargs=None,
            return_dict=False,
        )[0]
        return self.unpacked(output, h, w)

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows places packed"]:
        packed: Tensor = self.pipe._pack_latents(latents.contiguous(), *latents.shape)
        return packed

    def unpacked(self, packed: Shaped[Tensor, "rows places packed"], *size: int) -> Latents:
        factor = self.scale_factor
        latents: Tensor = self.pipe._unpack_latents(packed, *(side * factor for side in size))
        return latents[:, :, 0]
