"""Lumina 2: Gemma, a transformer with text and image on one axis, flow matching."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.lumina2.pipeline_lumina2 import calculate_shift, retrieve_timesteps
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.families.one_stream import OneStream
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments
from sdprobe.model.text.tokenize_prompt import read_in_template

MASK = "encoder_attention_mask"


class Lumina2(OneStream):
    """Lumina 2, whose language model reads the prompt after a system prompt, and the negative prompt without.

    In the blocks after the refiners the image follows the text directly; of rows with texts of different lengths hooks
    are shown images at the same positions (`AlignedRows`).
    """

    pipelines = ("Lumina2Pipeline",)
    separate_calls = True
    guiding = ("cfg_normalization",)
    text_first = True
    hides_padding = True
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (2,)})
    in_template = True

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond", "uncond") if guidance_scale > 1 else ("cond",)

    # Text.

    def of_role(self, role: Role) -> Lumina2:
        if self.in_template == (role != "uncond"):
            return self
        other = copy.copy(self)
        other.in_template = role != "uncond"
        return other

    def length(self, encoder: str) -> int:
        return int(self.argument("max_sequence_length"))

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        if encoder is None:
            return super().read(text)
        told = self.argument("system_prompt")
        before = f"{self.pipe.system_prompt if told is None else told} <Prompt Start> " if self.in_template else ""
        return read_in_template(self.tokenizer, text, before, length=self.length(encoder), padded=True)

    def text_tokens(self, prompt: Prompt) -> int:
        return prompt.unpadded

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        if self.in_template:
            embeds, mask, _, _ = self.pipe.encode_prompt(texts, False, device=self.device)
            return {EMBEDS: embeds, MASK: mask}
        # Only a negative prompt is read without the template; the given embeddings stand for the prompts.
        blank = torch.empty(len(texts), 1, 1)
        told = {"negative_prompt": texts, "prompt_embeds": blank, "prompt_attention_mask": blank[..., 0]}
        _, _, embeds, mask = self.pipe.encode_prompt(None, True, device=self.device, **told)
        return {EMBEDS: embeds, MASK: mask}

    # The network.

    def text_lengths(self, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(arguments[MASK].sum(1).tolist())

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        reached = 1 - timestep / self.pipe.scheduler.config.num_train_timesteps
        output = self.pipe.transformer(
            hidden_states=rows,
            timestep=reached.expand(len(rows)),
            **conditioning.arguments,
            return_dict=False,
            attention_kwargs=None,
        )[0]
        return -torch.as_tensor(output)

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        guided = super().guided(of, scale)
        if not self.argument("cfg_normalization"):
            return guided
        share: Tensor = of["cond"].norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return guided * share

    # The scheduler.

    @property
    def sets_begin_index(self) -> bool:
        return True

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        told = scheduler.config.get
        bounds = (("base_image_seq_len", 256), ("max_image_seq_len", 4096), ("base_shift", 0.5), ("max_shift", 1.15))
        # The pipeline takes the channels of the latents for the number of image tokens.
        shift = calculate_shift(self.channels, *(told(name, usual) for name, usual in bounds))
        asked = {"sigmas": np.linspace(1.0, 1 / settings.steps, settings.steps), "mu": shift}
        taken = signature(scheduler.set_timesteps).parameters
        known = {name: value for name, value in asked.items() if name in taken}
        retrieve_timesteps(scheduler, settings.steps, device, **known)
