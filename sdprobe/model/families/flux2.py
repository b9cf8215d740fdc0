"""Flux.2: a language model of which several layers are shown, a transformer with joint attention, flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.families.flux import Flux
from sdprobe.model.pictures.autoencoder import Posterior, posterior_of
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, PLACES, Conditioning, DenoiserArguments
from sdprobe.model.text.tokenize_prompt import read_in_template

TEXT = "{the prompt}"


class Flux2(Flux):
    """Flux.2 klein, with classifier-free guidance unless it is distilled, and Flux.2 dev, which is told the scale.

    Mistral (dev) or Qwen3 (klein) reads the prompt inside a template, padded to ``max_sequence_length`` tokens; the
    denoiser is shown all of them, and the states of three layers side by side. In joint attention the text comes before
    the image, in blocks of two streams and in those of one, whose queries, keys and values are made together with the
    values of their feed-forward layer.

    Latents are those of the denoiser, ``[images, channels, h, w]``: one position is one token, two positions of the
    autoencoder's latents wide, and its channels are those of four of these, normalised by their statistics. With
    ``output_type="latent"``, klein's pipeline returns the autoencoder's latents and dev's the denoiser's.

    klein's pipeline guides away from an empty prompt; `sample` takes another negative prompt too. dev has none.
    """

    pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")
    variants: ClassVar[tuple[str, ...]] = ("Flux2KleinInpaintPipeline",)
    token_axis = (("text_encoder",),)
    pooling = ()
    img2img = None
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (0,)})
    patch = 1

    @property
    def is_dev(self) -> bool:
        """Whether it is told the guidance scale, and is called once in a step."""
        return type(self.pipe).__name__ == "Flux2Pipeline"

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        guided = not self.is_dev and not self.pipe.config.is_distilled and guidance_scale > 1
        return ("cond", "uncond") if guided else ("cond",)

    def roles_asked(self, asked: Mapping[str, Any], settings: Settings) -> tuple[Role, ...]:
        return self.roles(settings.guidance_scale)

    # Sizes.

    @property
    def scale_factor(self) -> int:
        return 2 * int(self.pipe.vae_scale_factor)

    def default_size(self) -> tuple[int, int]:
        side = int(self.pipe.default_sample_size * self.pipe.vae_scale_factor)
        return side, side

    # Text.

    def tokenizer_of(self, encoder: str) -> Any:
        given = super().tokenizer_of(encoder)
        return getattr(given, "tokenizer", given)  # dev has a processor of texts and pictures

    def length(self, encoder: str) -> int:
        return int(self.argument("max_sequence_length"))

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        if encoder is None:
            return super().read(text)
        before, after = self.template()
        told = self.spelt(text, self.tokenizer)
        length, special = self.length(encoder), not self.is_dev
        return read_in_template(self.tokenizer, told, before, after, length=length, padded=True, special=special)

    def spelt(self, text: str, tokenizer: Any) -> str:
        return text.replace("[IMG]", "") if self.is_dev else text  # dev's pipeline takes the mark of a picture away

    def template(self) -> tuple[str, str]:
        """Return what the language model reads before and after a prompt."""
        tokenizer = self.pipe.tokenizer
        if self.is_dev:
            (asked,) = format_input([TEXT], self.pipe.system_message)
            written = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=False)
        else:
            asked = [{"role": "user", "content": TEXT}]
            options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
            written = tokenizer.apply_chat_template(asked, **options)
        before, _, after = written.partition(TEXT)
        return before, after

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        told = {name: self.argument(name) for name in ("max_sequence_length", "text_encoder_out_layers")}
        embeds, places = self.pipe.encode_prompt(texts, self.device, **told)
        return {EMBEDS: embeds, PLACES: places}

    def shown(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        layers = ", ".join(map(str, self.argument("text_encoder_out_layers")))
        raise ValueError(
            f"the denoiser of Flux.2 is shown the states of the layers {layers} side by side, none after the final "
            f"norm: one layer alone has not the width that it takes"
        )

    # The loop.

    def besides(self, settings: Settings) -> DenoiserArguments:
        if not self.is_dev:
            return {}
        return {"guidance": torch.full([settings.images], settings.guidance_scale, device=self.device)}

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        (places,) = self.grids(settings)
        self.set_sigmas(scheduler, settings, device, mu=compute_empirical_mu(places, settings.steps))

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        size = (settings.images, self.channels // 4, settings.height, settings.width)
        return self.pipe.prepare_latents(*size, self.dtype, self.device, generator, latents)

    def places_of(self, rows: Latents) -> Shaped[Tensor, "rows places 4"]:
        asked = (rows.shape, rows.device)
        if self._places is None or self._places[0] != asked:
            self._places = (asked, self.pipe._prepare_latent_ids(rows).to(rows.device))
        return self._places[1]

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        network = self.pipe.transformer
        with nullcontext() if self.is_dev else network.cache_context(conditioning.role or "cond"):
            output = network(
                hidden_states=self.packed(rows).to(network.dtype),
                timestep=timestep.expand(len(rows)).to(rows.dtype) / 1000,
                **{"guidance": None, **conditioning.arguments},
                img_ids=self.places_of(rows),
                joint_attention_kwargs=None,
                return_dict=False,
            )[0]
        return self.unpacked(output, *rows.shape[-2:])

    # Latents.

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows places channels"]:
        packed: Tensor = self.pipe._pack_latents(latents)
        return packed

    def unpacked(self, packed: Shaped[Tensor, "rows places channels"], *size: int) -> Latents:
        latents: Tensor = packed.mT.unflatten(2, size)
        return latents

    def statistics(self, like: Tensor) -> tuple[Shaped[Tensor, "1 channels 1 1"], Shaped[Tensor, "1 channels 1 1"]]:
        """Return the mean and the standard deviation of the latents of the autoencoder, for each channel of four."""
        bn, eps = self.pipe.vae.bn, self.pipe.vae.config.batch_norm_eps
        mean, variance = (own.view(1, -1, 1, 1) for own in (bn.running_mean, bn.running_var))
        return mean.to(like), torch.sqrt(variance + eps).to(like)

    def unscaled(self, x: Latents) -> Shaped[Tensor, "images channels h w"]:
        mean, std = self.statistics(x)
        own: Tensor = self.pipe._unpatchify_latents(x * std + mean)
        return own

    def posterior(self, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
        own = posterior_of(self.pipe.vae, pixels)
        mean, std = (self.pipe._patchify_latents(x) for x in own[:2])
        shift, spread = self.statistics(pixels)
        return Posterior(mean, std, 1.0 / spread[0], shift[0])

    def latents_returned(self, x: Latents) -> Tensor:
        return self.packed(x) if self.is_dev else self.unscaled(x)
