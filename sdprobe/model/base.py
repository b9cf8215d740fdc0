"""What the loop asks of a family of models.

A `Model` stands on a live diffusers pipeline and owns nothing of it. For a run, `prepare_run` gives a copy whose
pipeline is a shallow copy with a scheduler of its own: the pipeline's methods work as always, and neither the pipeline
nor any other run is disturbed.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from inspect import signature
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention as AttentionModule
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.concept import Concept
from sdprobe.core.run import Role, Row, Run, Settings, State, Step, rows_of
from sdprobe.model.denoiser.apply_limited_text import apply_limited_text
from sdprobe.model.denoiser.gradient_checkpointing import checkpointed
from sdprobe.model.denoiser.token_layout import Grid, Layout
from sdprobe.model.diffusion.noise_levels import Level, denoised, level_at, output_for
from sdprobe.model.diffusion.scheduler_copies import copied_generator, copied_scheduler
from sdprobe.model.diffusion.start_from_image import noised
from sdprobe.model.pipeline_parts import Latents, PipelineParts
from sdprobe.model.text.added_tokens import AddedTokens, add_to_tokenizers
from sdprobe.model.text.conditioning import Conditioning, DenoiserArguments, conditioned
from sdprobe.model.text.encoder_stages import table_of

Kind = TypeVar("Kind", bound="Model")  # not typing.Self, which cannot be checked as a run goes


class Model(PipelineParts, ABC):
    """A family of models: the few things the loop asks of it, each answered by the pipeline underneath.

    A family says what its pipelines are called, how they read prompts and what their network is told; everything that
    the pipelines have in common stands here.

    Attributes (and those of `PipelineParts`):
        pipelines: names of the pipelines' classes.
        text_first: whether the text stands before the picture in joint attention.
        img2img: the pipeline that encodes and noises a picture to start from, None where there is none here; and
            ``img2img_options``, what its constructor is told.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    text_first: ClassVar[bool] = False
    img2img: ClassVar[Any] = None
    img2img_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    settings: Settings  # of a stage

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self.first = self.begin = 0
        self.added_tokens: Mapping[str, AddedTokens] = MappingProxyType({})

    # What a family says.

    @property
    def zeroes_unprompted(self) -> bool:
        """Whether unconditional rows are told zeros where no negative prompt is given."""
        return False

    @abstractmethod
    def encoded(self, texts: list[str]) -> DenoiserArguments:
        """What the pipeline's own `encode_prompt` makes of texts, by the names of the denoiser's arguments."""

    @abstractmethod
    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels h w"]:
        """What the network returns for rows in its own scale, at the scheduler's number of a noise level."""

    def refuse_picture_prompt(self) -> None:
        """Raise ValueError where the network asks for a picture beside the prompt, which a run of ours has not."""

    def besides(self, settings: Settings) -> DenoiserArguments:
        """What the denoiser is told besides the prompts, an entry for each image, by the names of its arguments."""
        return {}

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        """Which groups of rows the denoiser is shown at this guidance scale, in the order of its batch."""
        return ("uncond", "cond") if guidance_scale > 1 else ("cond",)

    def set_timesteps(self, scheduler: Any, settings: Settings) -> None:
        """Set a scheduler to the run's steps, as the pipeline would."""
        scheduler.set_timesteps(settings.steps, device=self.device)

    def left_out(self, steps: int, strength: float) -> int:
        """How many of the steps are left out where so much of a picture is to be replaced."""
        return steps - min(int(steps * strength), steps)

    @abstractmethod
    def grids(self, settings: Settings) -> dict[int, Grid]:
        """``(h, w)`` by number of picture tokens, for every size the picture has inside the network."""

    def grid_at(self, site: str, settings: Settings) -> Grid | None:
        """``(h, w)`` of the picture's tokens at an attention site of this name; None where that is not known here."""
        return None

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        """The pictures in [0, 1]."""
        vae = self.pipe.vae
        shift = getattr(vae.config, "shift_factor", None)
        unscaled = x / vae.config.scaling_factor
        return self.finished(vae.decode(unscaled if shift is None else unscaled + shift, return_dict=False)[0])

    # What the loop asks for, in its order.

    def encode(self, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
        """The conditioning for every row, past the points of the text."""
        return conditioned(self, run, hooks, roles)

    def start_latents(self, settings: Settings, generator: Any, latents: Tensor | None, image: Any) -> Latents:
        """x_T, or the noised picture."""
        if image is not None:
            return noised(self, settings, generator, image)
        made: Tensor = self.prepared(settings, generator, latents)
        return made

    def entering(self, pipe: Any, pixels: Tensor, timestep: Tensor, settings: Settings, generator: Any) -> Latents:
        """What an image-to-image pipeline's own `prepare_latents` makes of pictures."""
        given = (pixels, timestep, len(settings.prompt), settings.images_per_prompt, self.dtype, self.device)
        made: Tensor = pipe.prepare_latents(*given, generator)
        return made

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        """What the pipeline's own `prepare_latents` gives."""
        factor = self.pipe.vae_scale_factor
        height, width = (side * factor for side in self.latent_size(settings))
        return self.pipe.prepare_latents(
            settings.images, self.channels, height, width, self.dtype, self.device, generator, latents
        )

    def narrowed(self, conditioning: Conditioning, rows: slice | list[int]) -> Conditioning:
        """The conditioning of these rows only: one role's, one row for each image."""
        return conditioning.of(rows)

    def denoise(self, x: Latents, step: Step, conditioning: Conditioning) -> Shaped[Tensor, "rows channels h w"]:
        """What the network returns for the latents, one entry per row."""
        timestep = self.timestep(step)
        rows = torch.cat([x] * conditioning.groups) if conditioning.groups > 1 else x
        if hasattr(self.pipe.scheduler, "scale_model_input"):
            rows = self.pipe.scheduler.scale_model_input(rows, timestep)
        return self.predict(
            rows, timestep, replace(conditioning, arguments=apply_limited_text(conditioning.arguments, step))
        )

    def attention_kind(self, module: nn.Module) -> str | None:
        """``"cross"``, ``"self"`` or ``"joint"`` for an attention module, None for any other."""
        if not isinstance(module, (AttentionModule, AttentionModuleMixin)):
            return None
        if getattr(module, "added_kv_proj_dim", None) is not None:
            return "joint"
        return "cross" if getattr(module, "is_cross_attention", False) else "self"

    @property
    def middle(self) -> str:
        """A pattern for the modules in the middle of the network: of its blocks with attention, the middle one."""
        sites = (name for name, module in self.denoiser.named_modules() if self.attention_kind(module))
        blocks = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in sites))
        return f"{blocks[len(blocks) // 2]}.*"

    def layout(self, settings: Settings) -> Layout:
        """Where picture and text stand on the axes of the network's attention."""
        return Layout(self.grids(settings), self.text_first)

    def guide(
        self, output: Shaped[Tensor, "rows channels h w"], rows: Sequence[Row], scale: float
    ) -> Shaped[Tensor, "images channels h w"]:
        """One answer for each image, of what the denoiser returned for all its rows."""
        of = {role: output[rows_of(rows, role)] for role in dict.fromkeys(row.role for row in rows)}
        return of["cond"] if len(of) == 1 else self.guided(of, scale)

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        """Classifier-free guidance (Ho & Salimans 2022, eq. 6, in its usual form): uncond + scale (cond - uncond)."""
        return of["uncond"] + scale * (of["cond"] - of["uncond"])

    def finished(self, decoded: Tensor) -> Float[Tensor, "images 3 height width"]:
        """What the autoencoder's decoder gave, as pictures in [0, 1]."""
        pictures: Tensor = self.pipe.image_processor.postprocess(decoded, output_type="pt")
        return pictures

    def checkpointed(self) -> AbstractContextManager[None]:
        """While this is open, gradients through the denoiser cost less memory and more time."""
        return checkpointed(self.denoiser)

    def prepare_run(
        self: Kind,
        scheduler: Any,
        settings: Settings,
        words: Mapping[str, Concept] = MappingProxyType({}),
        state: State | None = None,
    ) -> Kind:
        """A copy of this model for one run: the same parts, and a scheduler of its own, set to the run's steps.

        Where words are brought, it also has a tokenizer of its own; while `add_tokens` is open, the encoders know them.
        With a state, the scheduler is that of the state, and the steps begin there.
        """
        self.refuse_picture_prompt()
        run_model = copy.copy(self)
        run_model.pipe = copy.copy(self.pipe)
        run_model.device_of_run = self.device  # to tell it the pipeline looks into every module of every part
        run_model.settings = settings
        run_model.pipe.scheduler = scheduler
        run_model.added_tokens = add_to_tokenizers(run_model.pipe, words, run_model.spelt)
        run_model.first = settings.start_step * scheduler.order
        if state is not None:
            run_model.begin = state.index
            return run_model
        run_model.set_timesteps(scheduler, settings)
        if settings.strength is not None and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(run_model.first)
        return run_model

    @contextmanager
    def add_tokens(self) -> Iterator[None]:
        """While this is open, the encoders are given the vectors of the words that were brought."""
        with ExitStack() as given:
            for name, brought in self.added_tokens.items():
                given.enter_context(brought.add_to(table_of(getattr(self.pipe, name))))
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

    def expected_steps(self, run: Run) -> list[Step]:
        """Every step that a run is to make, with latents that hold no numbers."""
        shape = (run.settings.images, self.channels, *self.latent_size(run.settings))
        latents = torch.empty(shape, dtype=self.dtype, device="meta")
        return [step_at(latents) for step_at in self.steps(run, run.roles, None, _not_yet)]

    def timestep(self, step: Step) -> Tensor:
        """The scheduler's own number for a step, as the tensor the network and the scheduler are given."""
        timestep: Tensor = self.pipe.scheduler.timesteps[self.first + step.index]
        return timestep

    def advance(self, noise_pred: Latents, step: Step, x: Latents, generator: Any) -> Latents:
        """x_{t-1}, by the scheduler."""
        scheduler = self.pipe.scheduler
        if (prepare := getattr(self.pipe, "prepare_extra_step_kwargs", None)) is not None:
            extra = prepare(generator, 0.0)
        else:  # pipelines of flows tell their schedulers of no generator; but noise is to come from the run's seed
            extra = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
        latents: Tensor = scheduler.step(noise_pred, self.timestep(step), x, **extra, return_dict=False)[0]
        return latents

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.denoiser.parameters())
        return f"{type(self).__name__}({type(self.pipe).__name__}, denoiser {count / 1e6:.1f} M parameters)"


def _not_yet(*asked: Any) -> Tensor:
    raise RuntimeError("the run has not begun: its denoiser cannot be asked yet")
