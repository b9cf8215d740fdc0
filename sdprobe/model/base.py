"""`Model`: what the loop needs from a family of models.

A `Model` uses a live diffusers pipeline and does not change it. For a run, `prepare_run` returns a copy whose pipeline
is a shallow copy with its own scheduler: the pipeline's methods work as usual, and the original pipeline and other runs
are not affected.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention as AttentionModule
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.concept import Concept
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Run, Settings, State
from sdprobe.core.step import Step
from sdprobe.model.denoiser.apply_limited_text import apply_limited_text
from sdprobe.model.denoiser.compiled_parts import names_as_written
from sdprobe.model.denoiser.current_timestep import current_timestep
from sdprobe.model.denoiser.gradient_checkpointing import checkpointed
from sdprobe.model.denoiser.image_prompts import makes_image_prompts
from sdprobe.model.denoiser.token_layout import Grid, Layout
from sdprobe.model.denoiser_rows import DenoiserRows
from sdprobe.model.diffusion.set_and_read import set_and_read
from sdprobe.model.diffusion.start_from_image import noised
from sdprobe.model.latents_form import LatentsForm
from sdprobe.model.pipeline_parts import Latents, PipelineParts
from sdprobe.model.quantized import parameter_count, quantisation_of
from sdprobe.model.scheduler_steps import SchedulerSteps
from sdprobe.model.text.added_tokens import AddedTokens, add_to_tokenizers
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments, conditioned, prompts_of
from sdprobe.model.text.encoder_stages import table_of

Kind = TypeVar("Kind", bound="Model")  # not typing.Self, which the runtime type checks do not support


class Model(PipelineParts, LatentsForm, DenoiserRows, SchedulerSteps, ABC):
    """A family of models: the methods that the loop calls, implemented with the pipeline's own methods.

    A family defines the names of its pipelines, how they encode prompts and what their network gets; this class has
    what all pipelines have in common.

    Attributes (and those of `PipelineParts` and `DenoiserRows`):
        pipelines: the class names of the pipelines.
        variants: the class names of the family's other pipelines, which `attach` knows too.
        text_first: whether the text comes before the image in joint attention.
        registers: the number of tokens of no word that the denoiser puts before those of the text.
        one_of_each: whether the pipeline makes one of each prompt, however many it is asked for.
        ragged: whether texts of different lengths get different numbers of tokens. `encoded` then pads, with a mask.
        hides_padding: whether the denoiser is shown no padding, by a mask or because the texts have none.
        guiding: the names of further arguments of that call that say how it is guided.
        encoded_at: where in what ``encode_prompt`` returns the embeddings of each role stand: those of its tokens, then
            those of the whole prompt.
        img2img: the pipeline that encodes an image to start from and adds noise to it, None if there is none; and
            ``img2img_options``, the arguments of its constructor.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[tuple[str, ...]] = ()
    text_first: ClassVar[bool] = False
    registers: ClassVar[int] = 0
    one_of_each: ClassVar[bool] = False
    ragged: ClassVar[bool] = False
    hides_padding: ClassVar[bool] = False
    guiding: ClassVar[tuple[str, ...]] = ()
    encoded_at: ClassVar[Mapping[Role, tuple[int, ...]]] = MappingProxyType({"cond": (0, 1), "uncond": (0, 1)})
    img2img: ClassVar[Any] = None
    img2img_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    settings: Settings  # set by `prepare_run`

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self.first, self.begin, self.levels = 0, 0, ()
        self.added_tokens: Mapping[str, AddedTokens] = MappingProxyType({})

    # What a family defines.

    @property
    def zeroes_unprompted(self) -> bool:
        """Whether unconditional rows get zeros if no negative prompt is given."""
        return False

    @abstractmethod
    def encoded(self, texts: list[str]) -> DenoiserArguments:
        """Return the result of the pipeline's own `encode_prompt`, by the denoiser's argument names."""

    def encoded_prompts(self, run: Run, role: Role) -> DenoiserArguments:
        """Return what `encoded` gives for the prompts of a role."""
        return self.of_role(role).encoded([prompt.text for prompt in prompts_of(run, role)])

    def embeds_returned(self, told: DenoiserArguments) -> Any:
        """Return what `encoded` gave, past the hooks, as ``encode_prompt`` returns the embeddings of tokens."""
        return told[EMBEDS]

    def of_role(self: Kind, role: Role) -> Kind:
        """Return the model as it reads and encodes the texts of a role: itself, or a copy that reads in another way."""
        return self

    @abstractmethod
    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        """Return the network's output for rows in its own input scale, at the scheduler's number of a noise level."""

    def refuse_picture_prompt(self) -> None:
        """Raise ValueError where the network asks for a picture beside the prompt, which a run of ours has not."""

    def refuse_beside(self) -> None:
        """Raise ValueError where the network cannot be shown further tokens after those of the prompt."""

    def besides(self, settings: Settings) -> DenoiserArguments:
        """Return denoiser arguments other than the prompts, with an entry for each image, by argument name."""
        return {}

    @property
    def sets_begin_index(self) -> bool:
        """Whether the pipeline tells its scheduler at which index it begins, so that the scheduler need not search."""
        return False

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        """Set a scheduler to the run's steps, as the pipeline does, with its tables on a device."""
        scheduler.set_timesteps(settings.steps, device=device)

    def left_out(self, steps: int, strength: float) -> int:
        """Return how many steps are left out with this strength in image-to-image."""
        return steps - min(int(steps * strength), steps)

    @abstractmethod
    def grids(self, settings: Settings) -> dict[int, Grid]:
        """Return ``(h, w)`` by number of image positions, for every size that the image has inside the network."""

    def grid_at(self, site: str, settings: Settings) -> Grid | None:
        """Return ``(h, w)`` of the image positions at an attention site; None if it does not follow from the name."""
        return None

    def text_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens of text the denoiser gets in a run with this prompt."""
        return len(prompt.ids)

    def text_lengths(self, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the number of text tokens of each row, where the image follows each row's own text on one axis.

        Args:
            arguments: what the denoiser is told in a call, by argument name.
        """
        return ()

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images *frames 3 height width"]:
        """Decode latents to images in [0, 1]."""
        return self.finished(self.pipe.vae.decode(self.unscaled(x), return_dict=False)[0])

    # What the loop calls, in order.

    def encode(self, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
        """Encode the prompts, with the hooks at the text points, and return the conditioning of every row."""
        return conditioned(self, run, hooks, roles)

    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        """Return x_T, or the noisy latents of the image to start from."""
        if image is not None:
            return noised(self, settings, generator, image)
        return torch.as_tensor(self.prepared(settings, generator, latents))

    def entering(self, pipe: Any, pixels: Tensor, timestep: Tensor, settings: Settings, generator: Any) -> Latents:
        """Return the latents that an image-to-image pipeline's own `prepare_latents` makes from images."""
        given = (pixels, timestep, len(settings.prompt), settings.images_per_prompt, self.dtype, self.device)
        return torch.as_tensor(pipe.prepare_latents(*given, generator))

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        """Return the result of the pipeline's own `prepare_latents`."""
        factor = self.scale_factor
        height, width = (side * factor for side in self.latent_size(settings))
        return self.pipe.prepare_latents(
            settings.images, self.channels, height, width, self.dtype, self.device, generator, latents
        )

    def denoise(self, x: Latents, step: Step, conditioning: Conditioning) -> Shaped[Tensor, "rows channels *size"]:
        """Return the network's output for the latents, one entry per row."""
        timestep = self.timestep(step)
        rows = torch.cat([x] * conditioning.groups) if conditioning.groups > 1 else x
        if hasattr(self.pipe.scheduler, "scale_model_input"):
            rows = self.pipe.scheduler.scale_model_input(rows, timestep)
        told = replace(conditioning, arguments=apply_limited_text(conditioning.arguments, step)).joined()
        with current_timestep(step.run.model.pipe, timestep):
            return self.predict(rows, timestep, told)

    def attention_kind(self, module: nn.Module) -> str | None:
        """Return ``"cross"``, ``"self"`` or ``"joint"`` for an attention module, None for any other."""
        if not isinstance(module, (AttentionModule, AttentionModuleMixin)):
            return None
        if makes_image_prompts(self.denoiser, module):
            return None
        if getattr(module, "added_kv_proj_dim", None) is not None:
            return "joint"
        return "cross" if getattr(module, "is_cross_attention", False) else "self"

    @property
    def middle(self) -> str:
        """A pattern for the modules in the middle of the network: the middle one of its blocks with attention."""
        modules = names_as_written(self.denoiser).items()
        sites = (name for name, module in modules if self.attention_kind(module))
        blocks = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in sites))
        return f"{'*' * (len(self.networks) > 1)}{blocks[len(blocks) // 2]}.*"  # of each denoiser

    def layout(self, settings: Settings) -> Layout:
        """Return the positions of image and text on the axes of the network's attention."""
        return Layout(self.grids(settings), self.text_first, self.places_beside, self.registers)

    def finished(self, decoded: Tensor) -> Float[Tensor, "images *frames 3 height width"]:
        """Return the autoencoder's decoder output as images in [0, 1]."""
        return torch.as_tensor(self.processor.postprocess(decoded, output_type="pt"))

    def returned(self, pixels: Tensor, pictures: Sequence[Image], output_type: str) -> Any:
        """Return the decoded tensor as the pipeline returns it: ``"pt"``, ``"np"`` or ``"pil"``."""
        if output_type == "pt":
            return pixels
        return self.processor.pt_to_numpy(pixels) if output_type == "np" else list(pictures)

    def checkpointed(self) -> AbstractContextManager[None]:
        """While this is open, gradients through the denoiser take less memory and more time."""
        return checkpointed(*self.denoisers.values())

    def prepare_run(
        self: Kind,
        scheduler: Any,
        settings: Settings,
        words: Mapping[str, Concept] = MappingProxyType({}),
        state: State | None = None,
    ) -> Kind:
        """Return a copy of this model for one run: the same parts, with its own scheduler, set to the run's steps.

        If concepts add words, it also has its own tokenizer; while `add_tokens` is open, the encoders know these words.
        With a state, the scheduler is that of the state, and the steps begin there.
        """
        self.refuse_picture_prompt()
        run_model = copy.copy(self)
        run_model.pipe = copy.copy(self.pipe)
        run_model.device_of_run = self.device  # the pipeline has to search all modules to find it
        run_model.settings = settings
        run_model.pipe.scheduler = scheduler
        run_model.added_tokens = add_to_tokenizers(run_model.pipe, words, run_model.spelt)
        run_model.first = settings.start_step * scheduler.order
        if state is not None:
            run_model.begin, run_model.levels = state.index, state.levels
            return run_model
        set_on = partial(run_model.set_timesteps, scheduler, settings)
        run_model.levels = set_and_read(scheduler, set_on, run_model.device)
        told = settings.strength is not None or run_model.sets_begin_index
        if told and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(run_model.first)
        return run_model

    @contextmanager
    def add_tokens(self) -> Iterator[None]:
        """While this is open, the encoders have the vectors of the added words."""
        with ExitStack() as given:
            for name, brought in self.added_tokens.items():
                given.enter_context(brought.add_to(table_of(getattr(self.pipe, name))))
            yield

    def __repr__(self) -> str:
        every = self.denoisers.values()
        count, how = sum(map(parameter_count, every)), quantisation_of(self.denoiser)
        several = f"{len(every)} denoisers" if len(every) > 1 else "denoiser"
        size = f"{count / 1e6:.1f} M parameters{'' if how is None else f', {how}'}"
        return f"{type(self).__name__}({type(self.pipe).__name__}, {several} {size})"
