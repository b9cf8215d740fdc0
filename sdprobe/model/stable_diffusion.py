"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net, an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.models.attention_processor import Attention as AttentionModule
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor, nn

from sdprobe.compose import Hooks
from sdprobe.model.base import Latents, Model
from sdprobe.model.concepts import Brought
from sdprobe.model.encoding import States, final_norm, passing, states
from sdprobe.model.reading import read
from sdprobe.model.schedulers import fresh_scheduler
from sdprobe.prompt import Prompt
from sdprobe.run import Role, Run, Settings, Step, Text


class Conditioning(NamedTuple):
    """What the U-Net is told besides the latents and the time."""

    embeds: Shaped[Tensor, "rows tokens width"]
    groups: int
    timestep_cond: Tensor | None


class StableDiffusion(Model):
    """Stable Diffusion 1.x and 2.x, with epsilon and v-prediction."""

    pipelines = ("StableDiffusionPipeline",)

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipe.unet, "_orig_mod", self.pipe.unet)  # torch.compile wraps the network

    def read(self, text: str) -> Prompt:
        # A loaded textual inversion of several vectors is spelt out as several tokens, as the pipeline does it.
        return read(self.tokenizer, text, self.pipe.maybe_convert_prompt(text, self.tokenizer))

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        distilled = self.pipe.unet.config.time_cond_proj_dim is not None
        return ("uncond", "cond") if guidance_scale > 1 and not distilled else ("cond",)

    def encode(self, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
        settings = run.settings
        sides = {"cond": run.prompts, "uncond": run.negative_prompts}
        embeds = [self._encode_side(run, hooks, role, sides[role]) for role in roles]
        rows = [side.repeat_interleave(settings.images_per_prompt, dim=0) for side in embeds]
        return Conditioning(torch.cat(rows) if len(rows) > 1 else rows[0], len(roles), self._guidance_cond(settings))

    def text_states(self, prompts: Sequence[Prompt], given: Shaped[Tensor, "batch tokens width"] | None) -> States:
        return states(self.pipe.text_encoder, prompts, self.device, given)

    def _encode_side(
        self, run: Run, hooks: Hooks, role: Role, prompts: tuple[Prompt, ...]
    ) -> Shaped[Tensor, "batch tokens width"]:
        text = self._text(run, hooks, role, prompts)
        with self._passing_embeddings(hooks, text):
            x, _ = self.pipe.encode_prompt([p.text for p in prompts], self.device, 1, False)
        return hooks.prompt_embeds(x, text)

    def _passing_embeddings(self, hooks: Hooks, text: Text) -> AbstractContextManager[None]:
        """While this is open, token embeddings pass their point, if any hook acts there, before positions are added."""
        if not len(hooks.at("token_embeds")):
            return nullcontext()
        return passing(self.pipe.text_encoder.get_input_embeddings(), lambda x: hooks.token_embeds(x, text))

    def _text(self, run: Run, hooks: Hooks, role: Role, prompts: tuple[Prompt, ...]) -> Text:
        table = self.pipe.text_encoder.get_input_embeddings()
        brought = self.brought.get("text_encoder", Brought())

        def lookup(word: str) -> Float[Tensor, "tokens width"]:
            spelt = self.pipe.maybe_convert_prompt(word, self.tokenizer)
            ids = self.tokenizer(spelt, add_special_tokens=False, return_tensors="pt").input_ids[0]
            return brought.looked_up(table, ids.to(self.device)).detach()

        def encode(texts: Sequence[str]) -> Shaped[Tensor, "texts tokens width"]:
            made: Tensor = self.pipe.encode_prompt(list(texts), self.device, 1, False)[0]
            return made

        def layers() -> tuple[Shaped[Tensor, "batch tokens width"], ...]:
            with self._passing_embeddings(hooks.transforms, text):
                found = self.text_states(prompts, None).hidden_states
            return tuple(final_norm(self.pipe.text_encoder).forward(hidden) for hidden in found)

        def again() -> Shaped[Tensor, "batch tokens width"]:
            return self._encode_side(run, hooks.transforms, role, prompts)

        text = Text("text_encoder", prompts, role, run, lookup, encode, layers, again)
        return text

    def _guidance_cond(self, settings: Settings) -> Tensor | None:
        width = self.pipe.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.tensor(settings.guidance_scale - 1).repeat(settings.images)
        dtype = self.pipe.text_encoder.dtype
        cond: Tensor = self.pipe.get_guidance_scale_embedding(scale, embedding_dim=width)
        return cond.to(device=self.device, dtype=dtype)

    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        dtype = self.pipe.text_encoder.dtype
        if image is not None:
            return self._noised(settings, generator, image, dtype)
        made: Tensor = self.pipe.prepare_latents(
            settings.images,
            self.pipe.unet.config.in_channels,
            settings.height,
            settings.width,
            dtype,
            self.device,
            generator,
            latents,
        )
        return made

    def _noised(self, settings: Settings, generator: Any, image: Any, dtype: torch.dtype) -> Latents:
        # The stock image-to-image pipeline on the same parts encodes the picture and adds the noise.
        # Its constructor may rewrite the configuration of the scheduler it is given, so that is not the run's own.
        parts = {**self.pipe.components, "scheduler": fresh_scheduler(self.pipe, None)}
        pipe = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        pipe.scheduler = self.pipe.scheduler
        pixels = pipe.image_processor.preprocess(image, height=settings.height, width=settings.width)
        if len(pixels) not in (1, len(settings.prompt), settings.images):
            raise ValueError(
                f"{len(pixels)} pictures to start from for {len(settings.prompt)} prompts and {settings.images} "
                f"images: give one, or one per prompt"
            )
        if 1 < len(pixels) < settings.images:
            # Left to the pipeline, these would be tiled, and pair a prompt's images with other prompts' pictures.
            pixels = pixels.repeat_interleave(settings.images_per_prompt, dim=0)
        timestep = self.pipe.scheduler.timesteps[self.first : self.first + 1].repeat(settings.images)
        made: Tensor = pipe.prepare_latents(
            pixels, timestep, len(settings.prompt), settings.images_per_prompt, dtype, self.device, generator
        )
        return made

    def narrowed(self, conditioning: Conditioning, rows: slice | list[int]) -> Conditioning:
        return conditioning._replace(embeds=conditioning.embeds[rows], groups=1)

    def denoise(self, x: Latents, step: Step, conditioning: Conditioning) -> Shaped[Tensor, "rows channels h w"]:
        timestep = self.timestep(step)
        rows = torch.cat([x] * conditioning.groups) if conditioning.groups > 1 else x
        return self.predict(self.pipe.scheduler.scale_model_input(rows, timestep), timestep, conditioning)

    def predict(
        self, rows: Latents, timesteps: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels h w"]:
        """What the U-Net returns for rows in its own scale, at one timestep or at one for each row."""
        output: Tensor = self.pipe.unet(
            rows,
            timesteps,
            encoder_hidden_states=conditioning.embeds,
            timestep_cond=conditioning.timestep_cond,
            return_dict=False,
        )[0]
        return output

    @torch.no_grad()
    def latents_of(self, pictures: Sequence[Image]) -> Float[Tensor, "images channels h w"]:
        """Pictures as clean latents x0, each brought to the model's own size: scaled, and its middle cut out.

        The mean of what the autoencoder says; its spread is far below the noise that training adds.
        """
        height, width = self.default_size()
        vae, processor = self.pipe.vae, self.pipe.image_processor
        found = []
        for picture in pictures:
            pixels = processor.preprocess(picture, height, width, resize_mode="crop").to(self.device, vae.dtype)
            posterior = self.posterior(pixels)
            found.append(posterior.scaled(posterior.mean.float()))
        return torch.cat(found)

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        image = vae.decode(x / vae.config.scaling_factor, return_dict=False, generator=generator)[0]
        image, flagged = self.pipe.run_safety_checker(image, self.device, image.dtype)
        kept = [True] * len(image) if flagged is None else [not flag for flag in flagged]
        decoded: Tensor = self.pipe.image_processor.postprocess(image, output_type="pt", do_denormalize=kept)
        return decoded

    def attention_kind(self, module: nn.Module) -> str | None:
        if not isinstance(module, AttentionModule):
            return None
        return "cross" if module.is_cross_attention else "self"
