"""Z-Image: Qwen3, a transformer with image and text on one axis, flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from diffusers import ZImageImg2ImgPipeline
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.families.one_stream import OneStream
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments, to_length
from sdprobe.model.text.tokenize_prompt import read_in_template, respaced, side_by_side

MASK, MULTIPLE = "encoder_attention_mask", 32
"""The denoiser pads image and text, each, to a multiple of this number of tokens."""

NAMES = MappingProxyType({"x": "hidden_states", "t": "timestep", "cap_feats": EMBEDS})
"""How arguments of the denoiser are usually called, by their names in this one and in its ControlNet."""

CONTROL = "control_context"
"""What ControlNet is given after these."""

PLACE = "\ue000"
"""A letter that no template has, in the place of the text."""


class ZImage(OneStream):
    """Z-Image, whose pipeline shows its denoiser lists: of latents, and of as many embeddings as each text has tokens.

    Hooks get latents as ``[images, channels, h, w]``, and embeddings padded to the longest text of the call. Both roles
    are rows of one call, the conditional ones first. The image comes before the text; each is followed by padding up to
    a multiple of 32 tokens, at which the network looks too.

    The guidance scale is the pipeline's: cond + scale (cond - uncond), so that 0 is without guidance.
    """

    pipelines = ("ZImagePipeline",)
    variants = (
        "ZImageImg2ImgPipeline",
        "ZImageInpaintPipeline",
        "ZImageControlNetPipeline",
        "ZImageControlNetInpaintPipeline",
    )
    img2img = ZImageImg2ImgPipeline
    ragged = True
    hides_padding = True
    guiding = ("cfg_normalization",)
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (1,)})
    patch = 2

    def default_size(self) -> tuple[int, int]:
        return 1024, 1024

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        return ("cond", "uncond") if guidance_scale > 0 else ("cond",)

    # Text.

    def length(self, encoder: str) -> int:
        return int(self.argument("max_sequence_length"))

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        before, after = self._in_template(PLACE).split(PLACE)
        whole = self._in_template(text)
        told = whole[len(before) : len(whole) - len(after)]  # some templates strip white space
        length, padded = self.length("text_encoder"), encoder is not None
        own = respaced(read_in_template(self.tokenizer, told, before, after, length=length, padded=padded), told, text)
        return own if padded else side_by_side(text, {("text_encoder",): own})

    def _in_template(self, text: str) -> str:
        message = [{"role": "user", "content": text}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return str(self.tokenizer.apply_chat_template(message, **options))

    def text_tokens(self, prompt: Prompt) -> int:
        return _padded(prompt.unpadded)

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        longest = self.length("text_encoder")
        each, _ = self.pipe.encode_prompt(list(texts), self.device, False, max_sequence_length=longest)
        embeds, mask = _one_tensor(each)
        return {EMBEDS: embeds} if mask.all() else {EMBEDS: embeds, MASK: mask.long()}

    def embeds_returned(self, told: DenoiserArguments) -> list[Shaped[Tensor, "tokens width"]]:
        return _each(told[EMBEDS], told.get(MASK))

    def shown(
        self, states: Shaped[Tensor, "texts tokens width"], lengths: Sequence[int]
    ) -> Shaped[Tensor, "texts shown width"]:
        longest, before = max(lengths), self.tokenizer.padding_side == "left"
        kept = (own[-n:] if before else own[:n] for own, n in zip(states, lengths, strict=True))
        return torch.cat([to_length(own[None], longest) for own in kept])

    # The network.

    def layout(self, settings: Settings) -> Layout:
        (places,) = self.grids(settings)
        return replace(super().layout(settings), beside=_padded(places) - places)

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        size = (settings.height, settings.width)
        given = (settings.images, self.channels, *size, torch.float32, self.device, generator, latents)
        return self.pipe.prepare_latents(*given)

    def entering(self, pipe: Any, pixels: Tensor, timestep: Tensor, settings: Settings, generator: Any) -> Latents:
        size = (settings.height, settings.width)
        given = (settings.images, self.channels, *size, self.dtype, self.device, generator)
        return torch.as_tensor(pipe.prepare_latents(pixels, timestep, *given))

    def call_by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        by_name = {**dict(zip((*NAMES, CONTROL), args, strict=False)), **kwargs}
        given = {NAMES.get(name, name): value for name, value in by_name.items()}
        embeds, mask = _one_tensor(given[EMBEDS])
        rows = torch.stack(given["hidden_states"]).squeeze(2)
        return (), given | {"hidden_states": rows, EMBEDS: embeds, MASK: mask.long()}

    def call_as_made(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = dict(kwargs)
        rows, timestep, embeds = (given.pop(name) for name in NAMES.values())
        told = _each(embeds, given.pop(MASK, None))
        return (list(rows.unsqueeze(2).unbind(0)), timestep, told), given

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Float[Tensor, "rows channels *size"]:
        shown = rows.to(self.pipe.transformer.dtype)
        reached = (1000 - timestep.expand(len(rows))) / 1000
        call = {"hidden_states": shown, "timestep": reached, **conditioning.arguments}
        args, kwargs = self.call_as_made((), call)
        return self.output_of(self.pipe.transformer(*args, **kwargs, joint_attention_kwargs=None, return_dict=False)[0])

    def output_of(self, answer: Any, *size: int) -> Latents:
        return -torch.stack(list(answer)).squeeze(2).float()

    def answer_of(self, output: Latents, like: Any) -> Any:
        return list((-output).unsqueeze(2).to(like[0].dtype).unbind(0))

    def usual_scale(self, scale: float) -> float:
        return 1 + scale

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        guided = of["cond"] + scale * (of["cond"] - of["uncond"])
        most = float(self.argument("cfg_normalization") or 0)
        return guided if most <= 0 else torch.stack(list(map(_shortened, guided, most * _norms(of["cond"]))))

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        return super().decode(x.to(self.pipe.vae.dtype), generator)

    # The scheduler.

    @property
    def sets_begin_index(self) -> bool:
        return True

    def spaced_sigmas(self, steps: int) -> list[float]:
        # The pipeline's are rounded to single precision before they are shifted.
        spaced: list[float] = get_default_z_image_sigmas(steps)
        return spaced

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        self.set_sigmas(scheduler, settings, device, mu=self.shift(scheduler, settings, 1.15))


def _padded(tokens: int) -> int:
    return tokens + -tokens % MULTIPLE


def _one_tensor(
    each: Sequence[Shaped[Tensor, "own width"]],
) -> tuple[Shaped[Tensor, "rows tokens width"], Bool[Tensor, "rows tokens"]]:
    """Return embeddings of rows of different lengths as one tensor, and which of its tokens are theirs."""
    lengths = torch.tensor([len(own) for own in each], device=each[0].device)
    longest = int(lengths.max())
    embeds = torch.cat([to_length(own[None], longest) for own in each])
    return embeds, torch.arange(longest, device=embeds.device) < lengths[:, None]


def _each(
    embeds: Shaped[Tensor, "rows tokens width"], mask: Shaped[Tensor, "rows tokens"] | None
) -> list[Shaped[Tensor, "own width"]]:
    """Return the embeddings of each row, without padding: the inverse of `_one_tensor`."""
    return list(embeds) if mask is None else [row[own.bool()] for row, own in zip(embeds, mask, strict=True)]


def _norms(x: Latents) -> Float[Tensor, " images"]:
    return torch.stack([torch.linalg.vector_norm(own) for own in x])


def _shortened(x: Tensor, longest: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x)
    return x * (longest / norm) if norm > longest else x
