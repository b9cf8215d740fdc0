"""Sana: Gemma 2, a transformer with cross-attention and linear self-attention, a deep-compression autoencoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN, ASPECT_RATIO_1024_BIN
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import ASPECT_RATIO_2048_BIN
from diffusers.pipelines.sana.pipeline_sana import ASPECT_RATIO_4096_BIN
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.families.binned_transformer import BinnedTransformer
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments
from sdprobe.model.text.tokenize_prompt import read_in_template, side_by_side

INSTRUCTION = "complex_human_instruction"
"""The pipeline's argument with the lines that stand before a prompt."""


class Sana(BinnedTransformer):
    """Sana.

    Gemma reads a prompt, but not a negative prompt, after an instruction in words; the denoiser is shown the first
    token and the last 299. Self-attention is linear: it has no probabilities, and hooks do not see it. The autoencoder
    makes one position of the latents of 32 pixels each way.
    """

    pipelines = ("SanaPipeline",)
    variants = ("SanaPAGPipeline", "SanaControlNetPipeline")
    bins = MappingProxyType(
        {16: ASPECT_RATIO_512_BIN, 32: ASPECT_RATIO_1024_BIN, 64: ASPECT_RATIO_2048_BIN, 128: ASPECT_RATIO_4096_BIN}
    )
    text_inlet = ("caption_projection", "caption_norm")
    hides_padding = True
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (2,)})

    @property
    def multiple(self) -> int:
        return super().multiple if self.known_sizes else math.lcm(32, super().multiple)  # the pipeline asks for 32

    def default_size(self) -> tuple[int, int]:
        return int(self.default("height")), int(self.default("width"))

    @property
    def _instruction(self) -> str:
        """What stands before the text, as Gemma reads it."""
        return "\n".join(self.argument(INSTRUCTION) or ())

    def of_role(self, role: Role) -> Sana:
        if role != "uncond":
            return self
        without = copy.copy(self)
        without.asked = {**self.asked, INSTRUCTION: None}
        return without

    def length(self, encoder: str) -> int:
        length, before = int(self.argument("max_sequence_length")), self._instruction
        return length + len(self.tokenizer.encode(before)) - 2 if before else length

    def read_told(self, told: str, encoder: str | None = None) -> Prompt:
        length, before = self.length("text_encoder"), self._instruction
        given = read_in_template(self.tokenizer, told, before, length=length, padded=True, padding_side="right")
        if encoder is not None:
            return given
        return side_by_side(told, {("text_encoder",): given.at(self._shown(length))})

    def shown(
        self, states: Shaped[Tensor, "texts tokens width"], lengths: Sequence[int]
    ) -> Shaped[Tensor, "texts shown width"]:
        return states[:, self._shown(states.shape[1])]

    def _shown(self, given: int) -> list[int]:
        """Return which of so many tokens the denoiser is shown."""
        return [0, *range(given - int(self.argument("max_sequence_length")) + 1, given)]

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, mask, _, _ = self.pipe.encode_prompt(
            texts,
            False,
            device=self.device,
            clean_caption=self._cleans,
            max_sequence_length=int(self.argument("max_sequence_length")),
            complex_human_instruction=self.argument(INSTRUCTION),
        )
        return {EMBEDS: embeds, "encoder_attention_mask": mask}

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        height, width = self._worked_at(settings)
        kind = (torch.float32, self.device)  # in any precision of the network
        return self.pipe.prepare_latents(settings.images, self.channels, height, width, *kind, generator, latents)

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        network = self.pipe.transformer
        told = dict(conditioning.arguments)
        output = network(
            rows.to(network.dtype),
            **told | {EMBEDS: told[EMBEDS].to(network.dtype)},
            timestep=timestep.to(rows.device).expand(len(rows)) * network.config.timestep_scale,
            return_dict=False,
        )[0]
        return self.output_of(output)[:, : self.channels]

    def output_of(self, answer: Tensor, *size: int) -> Latents:
        return answer.float()  # guidance is in full precision
