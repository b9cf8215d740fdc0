"""Wan 2.1 and 2.2: videos of UMT5 text, by a transformer with cross-attention, or by two of them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.core.step import Step
from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.families.video import VideoModel
from sdprobe.model.pictures.autoencoder import Posterior
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments
from sdprobe.model.text.tokenize_prompt import read, respaced

TEXT_AFTER_PICTURE = 512
"""How many tokens of text stand after those of a picture: the denoiser takes them to be so many."""

SECOND = "transformer_2"
"""The name of the second denoiser of Wan 2.2 in its pipeline."""


class Wan(VideoModel):
    """Wan 2.1, and Wan 2.2 with one denoiser (5B) or two (A14B).

    Wan 2.2 A14B has two denoisers: ``transformer`` at timesteps from ``boundary_ratio`` of all on, and
    ``transformer_2`` below. Names of modules in the second begin with ``transformer_2.``. Latents are float32, whatever
    type the denoiser computes in. The embeddings of padding are zeros, and no mask hides them.

    Image to video (with `attach`): the denoiser is shown the picture's latents in further channels, which are no part
    of the latents that hooks get; in Wan 2.1 every site of cross-attention first attends to the picture's tokens (of
    CLIP), in a call of kind ``"image_prompt"``. With one denoiser of Wan 2.2 (5B) the picture stands in the place of
    the first frame: hooks get it there, as the denoiser does.

    VACE: the blocks that read the video to follow (``vace_blocks``) attend to the text as the others do, and are sites
    too. Pictures to refer to are the first frames of the latents, which are not decoded: heat maps begin with theirs.
    """

    pipelines = ("WanPipeline",)
    variants = ("WanImageToVideoPipeline", "WanVideoToVideoPipeline", "WanVACEPipeline")
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (1,)})
    separate_calls = True
    text_inlet = ("condition_embedder.text_embedder",)

    @property
    def networks(self) -> tuple[str, ...]:
        pair = self.boundary is not None and getattr(self.pipe, SECOND, None) is not None
        return (self.network, SECOND) if pair else (self.network,)

    @property
    def boundary(self) -> float | None:
        """The timestep from which on the first denoiser runs; None if it always does."""
        ratio = self.pipe.config.get("boundary_ratio")  # video to video has one denoiser
        return None if ratio is None else ratio * self.pipe.scheduler.config.num_train_timesteps

    def network_at(self, timestep: float | Tensor) -> str:
        if self.boundary is None or bool(torch.as_tensor(timestep, dtype=torch.float32) >= self.boundary):
            return self.network
        return SECOND

    def scale_at(self, step: Step) -> float:
        own = step.run.settings
        second = self.network_at(step.timestep) == SECOND and own.guidance_scale_2 is not None
        return float(own.guidance_scale_2 if second else own.guidance_scale)  # type: ignore[arg-type]

    @property
    def channels(self) -> int:
        return int(self.denoiser.config.out_channels)

    @property
    def patch(self) -> int:
        return int(self.denoiser.config.patch_size[1])

    @property
    def temporal_patch(self) -> int:
        return int(self.denoiser.config.patch_size[0])

    @property
    def multiple(self) -> int:
        return math.lcm(16, super().multiple)  # the pipeline asks for 16, whatever its parts are

    @property
    def sets_begin_index(self) -> bool:
        return True

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond", "uncond") if guidance_scale > 1 else ("cond",)

    def spelt(self, text: str, tokenizer: Any) -> str:
        return str(prompt_clean(super().spelt(text, tokenizer)))

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        own = read(self.tokenizer, cleaned := self.spelt(text, self.tokenizer), length=self.length("text_encoder"))
        return respaced(own, cleaned, text)

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        length = self.argument("max_sequence_length")
        embeds = self.pipe.encode_prompt(texts, None, False, max_sequence_length=length, device=self.device)[0]
        return {EMBEDS: embeds}

    def denoise(self, x: Latents, step: Step, conditioning: Conditioning) -> Shaped[Tensor, "rows channels *size"]:
        network, scheduler = getattr(self.pipe, self.network_at(step.timestep)), self.pipe.scheduler
        sigma = float(scheduler.sigmas[self.first + step.index])
        place = {"step_index": step.index, "sigma": sigma, "num_inference_steps": step.total}
        with network.cache_context(conditioning.role or "cond", **place):
            return super().denoise(x, step, conditioning)

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        network, dtype = getattr(self.pipe, self.network_at(timestep)), self.denoiser.dtype
        output: Tensor = network(
            hidden_states=rows.to(dtype),
            timestep=self.told_timestep(rows, timestep),
            encoder_hidden_states=conditioning.arguments[EMBEDS].to(dtype),
            attention_kwargs=None,
            return_dict=False,
        )[0]
        return output

    def told_timestep(self, rows: Latents, timestep: Tensor) -> Shaped[Tensor, "rows ..."]:
        """Return the timestep as the denoiser gets it: one for each row, or for each of its tokens (5B)."""
        if not self.pipe.config.expand_timesteps:
            return timestep.expand(len(rows))
        places = torch.ones(rows.shape[2:], dtype=torch.float32, device=rows.device)[:, ::2, ::2]
        return (places * timestep).flatten().unsqueeze(0).expand(len(rows), -1)

    def attention_kind(self, module: nn.Module) -> str | None:
        if isinstance(module, WanAttention):
            return "cross" if module.is_cross_attention else "self"
        return None

    @property
    def text_streams(self) -> tuple[str, ...]:
        return ()

    def layout(self, settings: Settings) -> Layout:
        own = super().layout(settings)
        return own if self.denoiser.config.image_dim is None else replace(own, text_tokens=TEXT_AFTER_PICTURE)

    def rows_of(self, shown: Any) -> Latents:
        rows: Tensor = shown[:, : self.channels]
        return rows

    def shown_as(self, rows: Latents, like: Any) -> Any:
        shown = rows.to(like.dtype)
        return shown if like.shape[1] == self.channels else torch.cat([shown, like[:, self.channels :]], dim=1)

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "videos frames 3 height width"]:
        vae = self.pipe.vae
        return self.finished(vae.decode(self.unscaled(x.to(vae.dtype)), return_dict=False)[0])

    def unscaled(self, x: Latents) -> Latents:
        mean, scale = self._mean_and_scale()
        return x / scale.to(x) + mean.to(x)

    def posterior(self, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
        mean, scale = self._mean_and_scale()
        found = super().posterior(pixels)
        return found._replace(shift=mean.to(found.mean), scale=scale.to(found.mean))

    def _mean_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return of each channel of the autoencoder its mean, and one over its standard deviation."""
        config = self.pipe.vae.config
        mean, std = (torch.tensor(own).view(-1, 1, 1, 1) for own in (config.latents_mean, config.latents_std))
        return mean, 1.0 / std

    def refuse_picture_prompt(self) -> None:
        if self.denoiser.config.in_channels != self.channels:
            raise ValueError(
                "this denoiser is shown a picture beside the latents, which sample cannot give it: attach to a "
                "WanImageToVideoPipeline of it (sdprobe.attach)"
            )
