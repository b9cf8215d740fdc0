"""A live diffusers pipeline, and what can be asked of any: how it reads text, its pictures and latents, its turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor, nn

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Settings
from sdprobe.model.call_signature import CallSignature
from sdprobe.model.model_lock import lock
from sdprobe.model.pictures.autoencoder import Posterior, picture_of, pixels_of, posterior_of
from sdprobe.model.pictures.linear_rgb import linear_rgb
from sdprobe.model.seeds import checked_seed
from sdprobe.model.text.encoder_stages import States, states
from sdprobe.model.text.prompt_of_texts import PromptOfTexts
from sdprobe.model.text.tokenize_prompt import read, side_by_side

Latents = Shaped[Tensor, "images channels h w"]


class PipelineParts:
    """A pipeline that is used, never changed, and owned by whoever made it.

    Args:
        pipe: the diffusers pipeline.

    Attributes:
        network: the pipeline's name of its denoiser.
        token_axis: the encoders whose tokens stand one after the other at ``prompt_embeds``; those of one tuple share
            their places.
        pooling: the encoders that make the one vector of the whole prompt, where the denoiser is told one.
        asked: what the pipeline's call, where one is under way, was asked for in the place of its defaults.
    """

    network: ClassVar[str] = "transformer"
    token_axis: ClassVar[tuple[tuple[str, ...], ...]] = (("text_encoder",),)
    pooling: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.device_of_run: torch.device | None = None
        self.asked: Mapping[str, Any] = MappingProxyType({})

    @property
    def denoiser(self) -> Any:
        """The network that is called once per step, an `nn.Module`."""
        network = getattr(self.pipe, self.network)
        return getattr(network, "_orig_mod", network)  # torch.compile wraps it

    # How the text is read.

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The pipeline's names of the text encoders it has, in their order."""
        named = {*self.pooling, *(name for names in self.token_axis for name in names)}
        return tuple(name for name in sorted(named) if getattr(self.pipe, name) is not None)

    def tokenizer_of(self, encoder: str) -> Any:
        """The tokenizer in front of an encoder."""
        return getattr(self.pipe, encoder.replace("text_encoder", "tokenizer"))

    @property
    def first_shown(self) -> str:
        """The first encoder whose tokens the denoiser is shown."""
        return next(name for names in self.token_axis for name in names if name in self.text_encoders)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first encoder whose tokens the denoiser is shown."""
        return self.tokenizer_of(self.first_shown)

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        """The text as the denoiser is shown it: every encoder's tokens in place; or as one encoder reads it.

        >>> import sdprobe
        >>> sdprobe.load().read("a red circle").tokens[:5]
        ('<|startoftext|>', 'a</w>', 'red</w>', 'circle</w>', '<|endoftext|>')
        """
        if encoder is None:
            there = [[name for name in names if name in self.text_encoders] for names in self.token_axis]
            return side_by_side(text, {tuple(names): self.read(text, names[0]) for names in there if names})
        tokenizer = self.tokenizer_of(encoder)
        return read(tokenizer, text, self.spelt(text, tokenizer), self.length(encoder))

    def read_each(self, texts: Mapping[str, str]) -> Prompt:
        """The prompt as the denoiser is shown it where encoders may be given different texts, by their names."""
        there = {name: texts[name] for name in self.text_encoders}
        if len(set(there.values())) == 1:
            return self.read(there[self.first_shown])
        shown = [[name for name in names if name in there] for names in self.token_axis]
        readings = [{name: self.read(there[name], name) for name in names} for names in shown if names]
        return PromptOfTexts.from_readings(there, readings)

    def spelt(self, text: str, tokenizer: Any) -> str:
        """The text as a tokenizer is given it: a textual inversion of several vectors is spelt out."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        return text if convert is None else str(convert(text, tokenizer))

    def length(self, encoder: str) -> int:
        """How many tokens an encoder is given: CLIP's context; of T5 as many as the pipeline asks for."""
        if "t5" in getattr(self.pipe, encoder).config.model_type:
            return int(self.argument("max_sequence_length"))
        return int(self.tokenizer_of(encoder).model_max_length)

    def text_states(self, prompts: Sequence[Prompt], given: Shaped[Tensor, "batch tokens width"] | None) -> States:
        """Every run_model of the first text encoder's pass over prompts as it reads them, or over given embeddings."""
        return states(getattr(self.pipe, self.text_encoders[0]), prompts, self.device, given)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes (with offloading too). Within a run it is known; else the pipeline is asked."""
        return self.pipe._execution_device if self.device_of_run is None else self.device_of_run

    @property
    def dtype(self) -> torch.dtype:
        """Of prompt embeddings, and so of latents."""
        dtype: torch.dtype = getattr(self.pipe, self.text_encoders[-1]).dtype
        return dtype

    @property
    def channels(self) -> int:
        """How many channels latents have."""
        return int(self.denoiser.config.in_channels)

    @property
    def multiple(self) -> int:
        """What heights and widths asked for, in pixels, must be multiples of."""
        return 8

    def default(self, name: str) -> Any:
        """The pipeline's own default for an argument of its call."""
        return CallSignature.of(self.pipe).default(name)

    def argument(self, name: str) -> Any:
        """What the call under way was asked for, or the pipeline's own default."""
        return self.asked[name] if name in self.asked else self.default(name)

    def default_size(self) -> tuple[int, int]:
        """The height and width, in pixels, that the model was made for."""
        size = getattr(self.pipe, "default_sample_size", None) or self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor

    def size_of(self, image: Any) -> tuple[int, int]:
        """The height and width, in pixels, that a picture to start from is brought to."""
        processor = self.pipe.image_processor
        pixels = processor.preprocess(image)
        height, width = processor.get_default_height_width(pixels)
        is_latents = pixels.shape[1] == self.channels
        factor = self.pipe.vae_scale_factor if is_latents else 1
        return height * factor, width * factor

    def latent_size(self, settings: Settings) -> tuple[int, int]:
        """The height and width of the latents."""
        factor = self.pipe.vae_scale_factor
        return settings.height // factor, settings.width // factor

    def pixels(
        self, images: Any, height: int | None = None, width: int | None = None
    ) -> Float[Tensor, "images 3 height width"]:
        """Pictures in [-1, 1], as the autoencoder is given them, at a size asked for or their own."""
        return pixels_of(self.pipe.image_processor, images, height, width).to(self.device, self.pipe.vae.dtype)

    def posterior(self, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
        """What the autoencoder says of pictures in [-1, 1]: the distribution of their latents, in its own scale."""
        return posterior_of(self.pipe.vae, pixels)

    def noise_like(self, x: Latents, seed: int | Sequence[int]) -> Latents:
        """The noise, of unit variance, that a run of this seed begins with."""
        return noise_like(x, seed)

    def linear_rgb(self, x: Latents) -> Float[Tensor, "images 3 h w"]:
        """Small pictures in [0, 1] without the decoder: fast, one pixel for each place of the latents."""
        return linear_rgb(self, x)

    def picture_of(self, x0: Latents) -> Float[Tensor, "images 3 height width"]:
        """Pictures in [0, 1] that gradients pass, by the decoder alone: no safety checker looks at them."""
        with self.freeze_parameters(torch.is_grad_enabled()):
            return picture_of(self.pipe.vae, x0)

    def pictures(self, image: Float[Tensor, "images 3 height width"]) -> list[Image]:
        """The decoded tensor as PIL pictures."""
        processor = self.pipe.image_processor
        pictures: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(image))
        return pictures

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for this model to be free. A run started from inside a hook of the same model is refused."""
        with lock({part for part in self.pipe.components.values() if isinstance(part, nn.Module)}):
            try:
                yield
            finally:
                self.pipe.maybe_free_model_hooks()  # an offloaded model leaves the GPU, as in the pipeline

    @contextmanager
    def freeze_parameters(self, wanted: bool = True) -> Iterator[None]:
        """While this is open, gradients reach the latents alone: none is kept for any parameter.

        Args:
            wanted: whether there are gradients at all. Without, parameters go on asking for theirs: torch takes other
                kernels for weights that do not, and the last bits of a small picture may depend on it.

        Raises ValueError where gradients are wanted through parameters that were made in inference mode.
        """
        every = [p for part in self.pipe.components.values() if isinstance(part, nn.Module) for p in part.parameters()]
        if wanted and any(parameter.is_inference() for parameter in every):
            raise ValueError(
                "a hook wants gradients, and this pipeline was built under torch.inference_mode(), whose parameters no "
                "gradient passes: build it outside"
            )
        learning = [parameter for parameter in every if parameter.requires_grad]
        collected = [parameter.grad for parameter in learning]
        try:
            for parameter, own in zip(learning, collected, strict=True):
                if own is not None:
                    parameter.grad = None
                if wanted:
                    parameter.requires_grad_(False)
            yield
        finally:
            for parameter, own in zip(learning, collected, strict=True):
                if wanted:
                    parameter.requires_grad_(True)
                if parameter.grad is not own:
                    parameter.grad = own


def generators(seed: int | Sequence[int]) -> torch.Generator | list[torch.Generator]:
    """CPU generators for a seed, or one for each of several."""
    seed = checked_seed(seed)
    if isinstance(seed, int):
        return torch.Generator("cpu").manual_seed(seed)
    return [torch.Generator("cpu").manual_seed(s) for s in seed]


def noise_like(latents: Latents, seed: int | Sequence[int]) -> Latents:
    """Noise of unit variance for latents, as a pipeline draws it from this seed, or from one for each of them."""
    made: Tensor = randn_tensor(latents.shape, generators(seed), latents.device, latents.dtype)
    return made
