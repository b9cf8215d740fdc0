"""HunyuanVideo: a language model that reads the prompt in a template, CLIP for the whole prompt, joint attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import retrieve_timesteps
from jaxtyping import Shaped
from torch import Tensor, nn

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.families.video import VideoModel
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments
from sdprobe.model.text.tokenize_prompt import read_in_template, side_by_side

MASK = "encoder_attention_mask"


class HunyuanVideo(VideoModel):
    """HunyuanVideo, which gets the guidance scale as an input.

    Llama reads the prompt inside a template, of which the denoiser is not shown the first tokens; CLIP reads the prompt
    alone. A refiner of the denoiser lets the text's tokens see each other (kind ``"text"``); in joint attention the
    video comes before the text, and nothing looks at padding. Guidance is an input of the network, so there are only
    rows of the prompt; a negative prompt is ignored unless the pipeline is given ``true_cfg_scale`` (with `attach`).
    """

    pipelines = ("HunyuanVideoPipeline",)
    pooling = ("text_encoder_2",)
    separate_calls = True
    hides_padding = True

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond",)

    def roles_asked(self, asked: Mapping[str, Any], settings: Settings) -> tuple[Role, ...]:
        guided = settings.negative_given and (asked.get("true_cfg_scale") or 1.0) > 1
        return ("cond", "uncond") if guided else ("cond",)

    # Text.

    @property
    def template(self) -> tuple[str, str]:
        """What the prompt's template has before it and after it."""
        before, after = self.argument("prompt_template")["template"].split("{}")
        return before, after

    @property
    def dropped(self) -> int:
        """How many of the template's first tokens the denoiser is not shown."""
        told = self.argument("prompt_template")
        if told.get("crop_start") is not None:
            return int(told["crop_start"])
        # As the pipeline counts them: all but the place of the prompt and the token after it.
        return len(self.tokenizer(told["template"], padding="max_length").input_ids) - 2

    @property
    def tokens_shown(self) -> int:
        """How many tokens of a text, with padding, the denoiser is shown."""
        return int(self.argument("max_sequence_length"))

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        if encoder in self.pooling:
            return super().read(text, encoder)
        length, dropped = self.dropped + self.tokens_shown, self.dropped if encoder is None else 0
        own = read_in_template(self.tokenizer, text, *self.template, length=length, padded=True, dropped=dropped)
        return side_by_side(text, {("text_encoder",): own}) if encoder is None else own

    def shown(
        self, states: Shaped[Tensor, "texts tokens width"], lengths: Sequence[int]
    ) -> Shaped[Tensor, "texts shown width"]:
        # Those of CLIP are shown to nobody, and stay as they are.
        return states[:, self.dropped :] if states.shape[1] == self.dropped + self.tokens_shown else states

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, pooled, mask = self.pipe.encode_prompt(
            texts,
            prompt_template=self.argument("prompt_template"),
            device=self.device,
            max_sequence_length=self.tokens_shown,
        )
        return {EMBEDS: embeds, "pooled_projections": pooled, MASK: mask}

    def besides(self, settings: Settings) -> DenoiserArguments:
        scales = [settings.guidance_scale] * settings.images
        return {"guidance": torch.tensor(scales, dtype=self.denoiser.dtype, device=self.device) * 1000.0}

    # The loop.

    @property
    def multiple(self) -> int:
        return math.lcm(16, super().multiple)  # the pipeline refuses other sizes

    @property
    def sets_begin_index(self) -> bool:
        return True

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        sigmas = np.linspace(1.0, 0.0, settings.steps + 1)[:-1]
        known = "sigmas" in signature(scheduler.set_timesteps).parameters  # Heun's scheduler has other arguments
        retrieve_timesteps(scheduler, settings.steps, device, **({"sigmas": sigmas} if known else {}))

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        dtype = self.denoiser.dtype
        with self.pipe.transformer.cache_context(conditioning.role or "cond"):
            output: Tensor = self.pipe.transformer(
                hidden_states=rows.to(dtype),
                timestep=timestep.expand(len(rows)).to(rows.dtype),
                **{name: x.to(dtype) for name, x in conditioning.arguments.items()},
                return_dict=False,
            )[0]
        return output

    def unscaled(self, x: Latents) -> Latents:
        return super().unscaled(x.to(self.pipe.vae.dtype))

    def attention_kind(self, module: nn.Module) -> str | None:
        if super().attention_kind(module) is None:
            return None
        refiner = self.denoiser.context_embedder.token_refiner
        return "text" if any(block.attn is module for block in refiner.refiner_blocks) else "joint"

    def refuse_beside(self) -> None:
        raise ValueError(
            f"{type(self).__name__} looks at as many of the first tokens as its prompt has, so that tokens after the "
            f"padding would not be seen: further tokens cannot be put beside the prompt"
        )
