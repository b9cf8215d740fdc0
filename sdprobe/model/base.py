"""What the loop asks of a family of models.

A `Model` stands on a live diffusers pipeline and owns nothing of it. For a run, `staged` gives a copy whose pipeline
is a shallow copy with a scheduler of its own: the pipeline's methods work as always, and neither the pipeline nor any
other run is disturbed.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor, nn

from sdprobe.compose import Hooks
from sdprobe.concept import Concept
from sdprobe.model.autoencoder import Posterior, picture_of, pixels_of, posterior_of
from sdprobe.model.checkpointing import checkpointed
from sdprobe.model.concepts import Brought, bring
from sdprobe.model.copies import copied_generator, copied_scheduler
from sdprobe.model.encoding import States
from sdprobe.model.linear_rgb import linear_rgb
from sdprobe.model.prediction import Level, denoised, level_at, output_for
from sdprobe.model.reading import read
from sdprobe.model.turns import turn
from sdprobe.prompt import Prompt
from sdprobe.run import Role, Row, Run, Settings, State, Step, rows_of

Latents = Shaped[Tensor, "images channels h w"]
Kind = TypeVar("Kind", bound="Model")  # not typing.Self, which cannot be checked as a run goes


class Model(ABC):
    """A family of models: the few things the loop asks of it, each answered by the pipeline underneath.

    Args:
        pipe: the live diffusers pipeline; it is used, never changed.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.first = self.begin = 0
        self.brought: Mapping[str, Brought] = MappingProxyType({})

    # What the loop asks for, in its order.

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The network that is called once per step, an `nn.Module`."""

    @abstractmethod
    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        """Which groups of rows the denoiser is shown at this guidance scale, in the order of its batch."""

    @abstractmethod
    def encode(self, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Any:
        """The conditioning for every row, past the points ``token_embeds`` and ``prompt_embeds``."""

    @abstractmethod
    def text_states(self, prompts: Sequence[Prompt], given: Shaped[Tensor, "batch tokens width"] | None) -> States:
        """Every stage of the first text encoder's pass over prompts, or over given input embeddings."""

    @abstractmethod
    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        """x_T, or the noised picture."""

    @abstractmethod
    def narrowed(self, conditioning: Any, rows: slice | list[int]) -> Any:
        """The conditioning of these rows only: one role's, one row for each image."""

    @abstractmethod
    def denoise(self, x: Latents, step: Step, conditioning: Any) -> Shaped[Tensor, "rows channels h w"]:
        """What the network returns for the latents, one entry per row."""

    @abstractmethod
    def attention_kind(self, module: nn.Module) -> str | None:
        """``"cross"``, ``"self"`` or ``"joint"`` for an attention module, None for any other."""

    def guide(
        self, output: Shaped[Tensor, "rows channels h w"], rows: Sequence[Row], scale: float
    ) -> Shaped[Tensor, "images channels h w"]:
        """Classifier-free guidance (Ho & Salimans 2022, eq. 6, in its usual form): uncond + scale (cond - uncond)."""
        cond = output[rows_of(rows, "cond")]
        if all(row.role == "cond" for row in rows):
            return cond
        uncond = output[rows_of(rows, "uncond")]
        return uncond + scale * (cond - uncond)

    @abstractmethod
    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        """The pictures in [0, 1]."""

    # What is the same for every pipeline known here.

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes (with offloading too)."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def tokenizer(self) -> Any:
        """The pipeline's first tokenizer."""
        return self.pipe.tokenizer

    def read(self, text: str) -> Prompt:
        """The text as this model's first encoder reads it.

        >>> import sdprobe
        >>> sdprobe.load().read("a red circle").tokens[:5]
        ('<|startoftext|>', 'a</w>', 'red</w>', 'circle</w>', '<|endoftext|>')
        """
        return read(self.tokenizer, text)

    def default(self, name: str) -> Any:
        """The pipeline's own default for an argument of its call."""
        return inspect.signature(self.pipe.__call__).parameters[name].default

    def default_size(self) -> tuple[int, int]:
        """The height and width, in pixels, that the model was made for."""
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor

    def size_of(self, image: Any) -> tuple[int, int]:
        """The height and width, in pixels, that a picture to start from is brought to."""
        processor = self.pipe.image_processor
        pixels = processor.preprocess(image)
        height, width = processor.get_default_height_width(pixels)
        is_latents = pixels.shape[1] == self.denoiser.config.in_channels
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
        return picture_of(self.pipe.vae, x0)

    def checkpointed(self) -> AbstractContextManager[None]:
        """While this is open, gradients through the denoiser cost less memory and more time."""
        return checkpointed(self.denoiser)

    def staged(
        self: Kind,
        scheduler: Any,
        settings: Settings,
        words: Mapping[str, Concept] = MappingProxyType({}),
        state: State | None = None,
    ) -> Kind:
        """A copy of this model for one run: the same parts, and a scheduler of its own, set to the run's steps.

        Where words are brought, it also has a tokenizer of its own; while `knowing` is open, the encoders know them.
        With a state, the scheduler is that of the state, and the steps begin there.
        """
        stage = copy.copy(self)
        stage.pipe = copy.copy(self.pipe)
        stage.pipe.scheduler = scheduler
        stage.brought = bring(stage.pipe, words)
        stage.first = settings.start_step * scheduler.order
        if state is not None:
            stage.begin = state.index
            return stage
        scheduler.set_timesteps(settings.steps, device=self.device)
        if settings.strength is not None and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(stage.first)
        return stage

    @contextmanager
    def knowing(self) -> Iterator[None]:
        """While this is open, the encoders are given the vectors of the words that were brought."""
        with ExitStack() as given:
            for name, brought in self.brought.items():
                given.enter_context(brought.given_to(getattr(self.pipe, name).get_input_embeddings()))
            yield

    def steps(
        self, run: Run, roles: Sequence[Role], generator: Any, to_prediction: Callable[..., Tensor]
    ) -> Iterator[Callable[..., Step]]:
        """Every step of the run, as what makes the `Step` once given its latents."""
        scheduler = self.pipe.scheduler
        rows = tuple(Row(i, run.prompt_of(i, role), role) for role in roles for i in range(run.settings.images))
        timesteps = scheduler.timesteps[self.first :]
        for index in range(self.begin, len(timesteps)):
            level = level_at(scheduler, self.first + index)

            def to_denoised(output: Tensor, sample: Tensor, level: Level = level) -> Tensor:
                return denoised(scheduler, output, sample, level)

            def to_output(x0: Tensor, sample: Tensor, level: Level = level) -> Tensor:
                return output_for(scheduler, x0, sample, level)

            def to_state(x: Tensor, index: int = index) -> State:
                return State(index, x.detach().clone(), copied_scheduler(scheduler), copied_generator(generator))

            where = (float(level.sigma), float(level.signal), float(level.noise))
            yield partial(
                Step,
                *(index, len(timesteps), float(timesteps[index]), *where),
                rows=rows,
                run=run,
                to_denoised=to_denoised,
                to_output=to_output,
                to_state=to_state,
                to_prediction=to_prediction,
            )

    def timestep(self, step: Step) -> Tensor:
        """The scheduler's own number for a step, as the tensor the network and the scheduler are given."""
        timestep: Tensor = self.pipe.scheduler.timesteps[self.first + step.index]
        return timestep

    def advance(self, noise_pred: Latents, step: Step, x: Latents, generator: Any) -> Latents:
        """x_{t-1}, by the scheduler."""
        extra = self.pipe.prepare_extra_step_kwargs(generator, 0.0)
        latents: Tensor = self.pipe.scheduler.step(noise_pred, self.timestep(step), x, **extra, return_dict=False)[0]
        return latents

    def grids(self, settings: Settings) -> dict[int, tuple[int, int]]:
        """``(h, w)`` by number of picture tokens, at every level: the latents' size, halved (rounding up) to 1 × 1."""
        h, w = self.latent_size(settings)
        found = {h * w: (h, w)}
        while h * w > 1:
            h, w = (h + 1) // 2, (w + 1) // 2
            found[h * w] = (h, w)
        return found

    def pictures(self, image: Float[Tensor, "images 3 height width"]) -> list[Image]:
        """The decoded tensor as PIL pictures."""
        processor = self.pipe.image_processor
        pictures: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(image))
        return pictures

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for this model to be free. A run started from inside a hook of the same model is refused."""
        with turn({part for part in self.pipe.components.values() if isinstance(part, nn.Module)}):
            try:
                yield
            finally:
                self.pipe.maybe_free_model_hooks()  # an offloaded model leaves the GPU, as in the pipeline

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While this is open, gradients reach the latents alone: none is kept for any parameter."""
        parts = (part for part in self.pipe.components.values() if isinstance(part, nn.Module))
        learning = [p for part in parts for p in part.parameters() if p.requires_grad]
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.denoiser.parameters())
        return f"{type(self).__name__}({type(self.pipe).__name__}, denoiser {count / 1e6:.1f} M parameters)"


def generators(seed: int | Sequence[int]) -> torch.Generator | list[torch.Generator]:
    """CPU generators for a seed, or one for each of several."""
    if isinstance(seed, int):
        return torch.Generator("cpu").manual_seed(seed)
    return [torch.Generator("cpu").manual_seed(s) for s in seed]


def noise_like(latents: Latents, seed: int | Sequence[int]) -> Latents:
    """Noise of unit variance for latents, as a pipeline draws it from this seed, or from one for each of them."""
    made: Tensor = randn_tensor(latents.shape, generators(seed), latents.device, latents.dtype)
    return made
