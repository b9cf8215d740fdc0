"""What a stock pipeline was asked for: the arguments of one call of it, read as the settings of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdprobe.core.run import Settings
from sdprobe.model.base import Model
from sdprobe.model.call_signature import BoundCall, CallSignature
from sdprobe.stock_pipelines.prompts_read import Side, texts_of


@dataclass(frozen=True)
class CallArguments:
    """The arguments of one call of a pipeline, those left out filled in with its defaults."""

    bound: BoundCall

    @classmethod
    def of(cls, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallArguments:
        """What a call of a pipeline is asked for. Raises TypeError for arguments that it does not take."""
        return cls(CallSignature.of(pipe).bind(args, kwargs))

    def get(self, name: str) -> Any:
        """An argument; None where the pipeline has none of this name."""
        return self.bound.arguments.get(name)

    # The caller's own callbacks.

    @property
    def own_callback(self) -> Callable[..., dict[str, Any]] | None:
        """What the caller has called at the end of each step, and what may give the pipeline other values."""
        callback: Callable[..., dict[str, Any]] | None = self.get("callback_on_step_end")
        return callback

    @property
    def callback_inputs(self) -> tuple[str, ...]:
        """What that asks to be shown."""
        asked = self.get("callback_on_step_end_tensor_inputs")
        return tuple(getattr(self.own_callback, "tensor_inputs", asked) or ())

    @property
    def calls_back(self) -> bool:
        """Whether the pipeline calls anything at the end of a step that may give it other values."""
        return "callback_on_step_end" in self.bound.arguments

    def replace_callbacks(
        self, at_step_end: Callable[..., Any], aside: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with callbacks that are listened to.

        Args:
            at_step_end: what is called at the end of each step, and shown the latents.
            aside: makes of an older callback, which is shown the latents only, one during which nothing is heard.
        """
        new: dict[str, Any] = {}
        if self.calls_back:
            shown = [*(self.callback_inputs if self.own_callback is not None else ()), "latents"]
            new["callback_on_step_end"] = at_step_end
            new["callback_on_step_end_tensor_inputs"] = list(dict.fromkeys(shown))
        if callable(older := self.get("callback")):
            new["callback"] = aside(older)
        return self.bound.replaced(new)

    # What it says of the run.

    @property
    def negative_given(self) -> bool:
        """Whether there is a negative prompt, in words or embeddings."""
        return self._says("negative_prompt") or self.get("negative_prompt_embeds") is not None

    def settings(self, model: Model) -> Settings:
        """The settings of the run, as far as the arguments tell them; sizes are the pipeline's usual ones."""
        height, width = self._size(model)
        schedules = (self.get("timesteps"), self.get("sigmas"))
        schedule = next((own for own in schedules if own is not None), None)
        counts = [self.get(name) for name in ("num_images_per_prompt", "num_videos_per_prompt")]
        count = 1 if model.one_of_each else next(filter(None, counts), 1)
        scale, strength = self.get(model.guidance_argument), self.get("strength")
        texts, negative = texts_of(self.bound.arguments, "prompt"), texts_of(self.bound.arguments, "negative_prompt")
        return Settings(
            prompt=texts,
            negative_prompt=negative * len(texts) if len(negative) == 1 else negative,
            negative_given=self.negative_given,
            steps=int(self.get("num_inference_steps")) if schedule is None else len(schedule),
            guidance_scale=1.0 if scale is None else float(scale),
            seed=seed_of(self.get("generator")),
            scheduler=type(model.pipe.scheduler).__name__,
            height=height,
            width=width,
            images_per_prompt=int(count),
            frames=model.frames_made(self.get("num_frames") or model.default_frames),
            strength=None if strength is None else float(strength),
            guidance_scale_2=None if self.get("guidance_scale_2") is None else float(self.get("guidance_scale_2")),
        )

    def _says(self, name: Side) -> bool:
        given = self.get(name)
        return name in self.bound.usual and given is not None and given != self.bound.usual[name]

    def _size(self, model: Model) -> tuple[int, int]:
        usual = model.default_size()
        picture = self.get("control_image") if self.get("control_image") is not None else self.get("image")
        sized = "height" in self.bound.arguments and not hasattr(model.pipe, "controlnet")
        if picture is not None and not sized:
            usual = model.size_of(picture)
        return int(self.get("height") or usual[0]), int(self.get("width") or usual[1])


def seed_of(generator: Any) -> int | tuple[int, ...] | None:
    """The seed of a generator, or of each of several; None where there is none, or one has been drawn from already."""
    if isinstance(generator, torch.Generator):
        seed = generator.initial_seed()
        fresh = torch.Generator(generator.device).manual_seed(seed)
        return seed if torch.equal(fresh.get_state(), generator.get_state()) else None
    seeds = [seed_of(one) for one in generator or ()]
    found = tuple(seed for seed in seeds if isinstance(seed, int))
    return found if found and len(found) == len(seeds) else None
