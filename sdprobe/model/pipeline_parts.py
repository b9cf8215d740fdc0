"""`PipelineParts`: the parts of a diffusers pipeline: tokenizers, autoencoder, sizes, lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor, nn

from sdprobe.core.prompt import Prompt
from sdprobe.core.prompt_of_texts import PromptOfTexts
from sdprobe.core.provenance import Provenance, versions
from sdprobe.core.run import Settings
from sdprobe.core.torch_names import name_of as dtype_name
from sdprobe.model.call_signature import CallSignature
from sdprobe.model.denoiser.gradient_checkpointing import uncheckpointed
from sdprobe.model.denoisers import Denoisers
from sdprobe.model.frozen_parameters import freeze_parameters
from sdprobe.model.lost_gradients import refuse_layers_without_gradient, refuse_offloaded_weights
from sdprobe.model.model_lock import lock
from sdprobe.model.outside_modules import modules_outside
from sdprobe.model.pictures.autoencoder import Posterior, picture_of, pixels_of, posterior_of
from sdprobe.model.pictures.linear_rgb import linear_rgb
from sdprobe.model.seeds import noise_like
from sdprobe.model.text.encoder_stages import States, states
from sdprobe.model.text.tokenize_prompt import read, side_by_side
from sdprobe.model.weights_hash import source_of, weights_hash, weights_state

READING = ("max_sequence_length", "clean_caption", "complex_human_instruction", "system_prompt", "prompt_template")
"""The arguments, beside the texts, that say how texts are read."""

Latents = Shaped[Tensor, "images channels *size"]


class PipelineParts(Denoisers):
    """A diffusers pipeline, which is used and not changed.

    Args:
        pipe: the diffusers pipeline.

    Attributes (and those of `Denoisers`):
        token_axis: the encoders whose tokens are concatenated at ``prompt_embeds``; those of one tuple share their
            positions.
        pooling: the encoders that make the vector of the whole prompt, if the denoiser gets one.
        asked: the arguments of the pipeline's call that is running, where they differ from the defaults.
    """

    token_axis: ClassVar[tuple[tuple[str, ...], ...]] = (("text_encoder",),)
    pooling: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.device_of_run: torch.device | None = None
        self.asked: Mapping[str, Any] = MappingProxyType({})

    @property
    def modules_outside(self) -> Mapping[str, nn.Module]:
        """The modules of the text encoders and the decoder; their names begin with ``text_encoder`` or ``vae``."""
        return modules_outside({name: getattr(self.pipe, name) for name in self.text_encoders}, self.pipe.vae)

    @property
    def provenance(self) -> Provenance:
        """The model's name, where it was loaded from, a hash of its weights, and the versions of the packages."""
        dtype, device = dtype_name(self.denoiser.dtype), str(self.device)
        return Provenance(repr(self), source_of(self.pipe), weights_hash(self.pipe), dtype, device, versions())

    @property
    def weights_state(self) -> tuple[object, ...]:
        """What becomes another where the weights do: a run that began with another one was made by other weights."""
        return weights_state(self.pipe)

    # Text.

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The names of the pipeline's text encoders, in their order."""
        named = {*self.pooling, *(name for names in self.token_axis for name in names)}
        return tuple(name for name in sorted(named) if getattr(self.pipe, name) is not None)

    def tokenizer_of(self, encoder: str) -> Any:
        """Return the tokenizer of an encoder."""
        return getattr(self.pipe, encoder.replace("text_encoder", "tokenizer"))

    @property
    def first_shown(self) -> str:
        """The first encoder whose tokens the denoiser gets."""
        return next(name for names in self.token_axis for name in names if name in self.text_encoders)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first encoder whose tokens the denoiser gets."""
        return self.tokenizer_of(self.first_shown)

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        """Tokenize a text, for all encoders at their positions for the denoiser, or for one encoder.

        >>> import sdprobe
        >>> sdprobe.load().read("a red circle").tokens[:5]
        ('<|startoftext|>', 'a</w>', 'red</w>', 'circle</w>', '<|endoftext|>')
        """
        if encoder is None:
            there = [[name for name in names if name in self.text_encoders] for names in self.token_axis]
            return side_by_side(text, {tuple(names): self.read(text, names[0]) for names in there if names})
        tokenizer = self.tokenizer_of(encoder)
        return read(tokenizer, text, self.spelt(text, tokenizer), self.length(encoder))

    def plain(self, written: str) -> str:
        """Return the text of a prompt as a user wrote it: without weights, if the run reads weights."""
        return written

    def read_each(self, texts: Mapping[str, str]) -> Prompt:
        """The prompt as the denoiser is shown it where encoders may be given different texts, by their names."""
        there = {name: texts[name] for name in self.text_encoders}
        if len(set(there.values())) == 1:
            return self.read(there[self.first_shown])
        shown = [[name for name in names if name in there] for names in self.token_axis]
        readings = [{name: self.read(there[name], name) for name in names} for names in shown if names]
        return PromptOfTexts.from_readings(there, readings)

    def spelt(self, text: str, tokenizer: Any) -> str:
        """Return the text as a tokenizer gets it: a concept of several vectors becomes several tokens."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        return text if convert is None else str(convert(text, tokenizer))

    def shown(
        self, states: Shaped[Tensor, "texts tokens width"], lengths: Sequence[int]
    ) -> Shaped[Tensor, "texts shown width"]:
        """Return the states of an encoder's tokens for the tokens that the denoiser is shown.

        Args:
            states: the states.
            lengths: how many tokens each text has, without those that the encoder pads it with.
        """
        return states

    def length(self, encoder: str) -> int:
        """Return how many tokens an encoder gets: CLIP's context; for T5 the pipeline's default."""
        if "t5" in getattr(self.pipe, encoder).config.model_type:
            return int(self.argument("max_sequence_length"))
        return int(self.tokenizer_of(encoder).model_max_length)

    def text_states(self, prompts: Sequence[Prompt], given: Shaped[Tensor, "batch tokens width"] | None) -> States:
        """Return every stage of the first text encoder's pass over prompts, or over given input embeddings."""
        return states(getattr(self.pipe, self.text_encoders[0]), prompts, self.device, given)

    @property
    def device(self) -> torch.device:
        """The device the pipeline computes on, with offloading too."""
        return self.pipe._execution_device if self.device_of_run is None else self.device_of_run

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of prompt embeddings and latents."""
        dtype: torch.dtype = getattr(self.pipe, self.text_encoders[-1]).dtype
        return dtype

    @property
    def channels(self) -> int:
        """The number of channels of latents."""
        return int(self.denoiser.config.in_channels)

    @property
    def multiple(self) -> int:
        """Heights and widths in pixels must be multiples of this."""
        return 8

    @property
    def scale_factor(self) -> int:
        """How many pixels, each way, are one position of the latents."""
        return int(self.pipe.vae_scale_factor)

    @property
    def processor(self) -> Any:
        """The part of the pipeline that turns pictures into tensors and back."""
        return getattr(self.pipe, "image_processor", None) or self.pipe.video_processor

    @property
    def default_frames(self) -> int | None:
        """The number of frames that the model was trained for; None for a model of images."""
        return None

    @property
    def temporal_factor(self) -> int:
        """How many frames, after the first, are one position of the latents in time."""
        return 1

    def frames_made(self, asked: int | None) -> int | None:
        """Return how many frames a video has of which so many are asked for; None for a model of images."""
        return asked

    def default(self, name: str) -> Any:
        """Return the pipeline's default for an argument of its call."""
        return CallSignature.of(self.pipe).default(name)

    def asked_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model has to know of a call, of the pipeline or of ``encode_prompt``: how it reads texts."""
        return {name: given[name] for name in READING if name in given}

    def argument(self, name: str) -> Any:
        """Return an argument of the call that is running, or the pipeline's default."""
        return self.asked[name] if name in self.asked else self.default(name)

    def default_size(self) -> tuple[int, int]:
        """The height and width, in pixels, that the model was trained for."""
        size = getattr(self.pipe, "default_sample_size", None) or self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.scale_factor, width * self.scale_factor

    def size_of(self, image: Any) -> tuple[int, int]:
        """Return the height and width, in pixels, to which an image to start from is resized."""
        processor = self.processor
        pixels = processor.preprocess(image)
        height, width = processor.get_default_height_width(pixels)
        is_latents = pixels.shape[1] == self.channels
        factor = self.scale_factor if is_latents else 1
        return height * factor, width * factor

    def latent_size(self, settings: Settings) -> tuple[int, int]:
        """Return the height and width of the latents."""
        factor = self.scale_factor
        return settings.height // factor, settings.width // factor

    def latent_shape(self, settings: Settings) -> tuple[int, ...]:
        """Return the axes of the latents after the channels: ``(h, w)``."""
        return self.latent_size(settings)

    def settings_of_size(self, settings: Settings, *size: int) -> Settings:
        """Return the settings of a run whose latents have another size, ``(h, w)``."""
        height, width = (int(side) * self.scale_factor for side in size)
        return replace(settings, height=height, width=width)

    def pixels(
        self, images: Any, height: int | None = None, width: int | None = None
    ) -> Float[Tensor, "images 3 height width"]:
        """Return images in [-1, 1], as input of the autoencoder, at a given size or their own."""
        return pixels_of(self.processor, images, height, width).to(self.device, self.pipe.vae.dtype)

    def posterior(self, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
        """Return the autoencoder's distribution of the latents of images in [-1, 1], in its own scale."""
        return posterior_of(self.pipe.vae, pixels)

    def noise_like(self, x: Latents, seed: int | Sequence[int]) -> Latents:
        """Return the initial noise, of unit variance, of a run with this seed."""
        return noise_like(x, seed)

    def linear_rgb(self, x: Shaped[Tensor, "images channels *frames h w"]) -> Float[Tensor, "images 3 *frames h w"]:
        """Return small images in [0, 1] without the decoder: fast, one pixel per position of the latents."""
        return linear_rgb(self, x)

    def picture_of(self, x0: Latents) -> Float[Tensor, "images *frames 3 height width"]:
        """Decode latents to images in [0, 1], differentiably and without a safety checker."""
        vae, wanted = self.pipe.vae, torch.is_grad_enabled()
        if wanted:
            refuse_offloaded_weights(vae)
        with freeze_parameters(self.pipe, self.denoiser, wanted), refuse_layers_without_gradient(vae, wanted):
            return picture_of(vae, self.unscaled(x0.to(vae.dtype)), self.default_frames is not None)

    def unscaled(self, x: Latents) -> Shaped[Tensor, "images channels ..."]:
        """Return latents in the autoencoder's own scale and form."""
        config = self.pipe.vae.config
        shift = getattr(config, "shift_factor", None)
        own: Tensor = x / config.scaling_factor
        return own if shift is None else own + shift

    def pictures(self, image: Float[Tensor, "images *frames 3 height width"]) -> list[Image]:
        """Return the decoded tensor as PIL images."""
        processor = self.processor
        pictures: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(image))
        return pictures

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until this model is free. Refuses a run that is started inside a hook of the same model."""
        with lock({part for part in self.pipe.components.values() if isinstance(part, nn.Module)}):
            try:
                yield
            finally:
                self.pipe.maybe_free_model_hooks()  # an offloaded model leaves the GPU, as in the pipeline

    @contextmanager
    def gradients_aside(self) -> Iterator[None]:
        """While this is open, an observer can take gradients in further calls of the denoiser, and change nothing."""
        frozen = freeze_parameters(self.pipe, self.denoiser, True, until_end=False)
        with frozen, uncheckpointed(*self.denoisers.values()):
            yield

    @contextmanager
    def freeze_parameters(self, wanted: bool = True) -> Iterator[None]:
        """While this is open, no parameter gets a gradient; gradients reach only inputs such as the latents.

        Args:
            wanted: whether there are gradients at all; see `sdprobe.model.frozen_parameters`.

        Raises ValueError if gradients are wanted through parameters that were made in inference mode, that group
        offloading has taken away in the backward pass, or that are quantised in a way that no gradient passes.
        """
        with ExitStack() as opened:
            for denoiser in self.denoisers.values():
                if wanted:
                    refuse_offloaded_weights(denoiser)
                opened.enter_context(refuse_layers_without_gradient(denoiser, wanted))
            opened.enter_context(freeze_parameters(self.pipe, self.denoiser, wanted))
            yield
