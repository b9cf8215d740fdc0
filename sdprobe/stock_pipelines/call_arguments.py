"""What a stock pipeline was asked for: the arguments of one call of it, read as the settings of a run."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Role, Settings
from sdprobe.model.base import Model
from sdprobe.model.families.flux import Flux

GIVEN = "(prompt_embeds)"


@dataclass(frozen=True)
class CallArguments:
    """The arguments of one call of a pipeline, those left out filled in with its defaults."""

    bound: inspect.BoundArguments

    @classmethod
    def of(cls, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallArguments:
        """What a call is asked for. Raises TypeError for arguments that it does not take."""
        bound = inspect.signature(call).bind(*args, **kwargs)
        bound.apply_defaults()
        return cls(bound)

    def get(self, name: str) -> Any:
        """An argument; None where the pipeline has none of this name."""
        return self.bound.arguments.get(name)

    @property
    def own_callback(self) -> Callable[..., dict[str, Any]] | None:
        """What the caller has called at the end of each step."""
        callback: Callable[..., dict[str, Any]] | None = self.get("callback_on_step_end")
        return callback

    @property
    def callback_inputs(self) -> tuple[str, ...]:
        """What that asks to be shown."""
        asked = self.get("callback_on_step_end_tensor_inputs")
        return tuple(getattr(self.own_callback, "tensor_inputs", asked) or ())

    @property
    def calls_back(self) -> bool:
        """Whether the pipeline calls anything at the end of a step."""
        return "callback_on_step_end" in self.bound.arguments

    def with_callback(self, at_step_end: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with a function that is called at the end of each step and shown the latents."""
        bound = copy.copy(self.bound)
        bound.arguments = dict(self.bound.arguments)
        if self.calls_back:
            bound.arguments["callback_on_step_end"] = at_step_end
            shown = [*(self.callback_inputs if self.own_callback is not None else ()), "latents"]
            bound.arguments["callback_on_step_end_tensor_inputs"] = list(dict.fromkeys(shown))
        return bound.args, bound.kwargs

    # What it says of the run.

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts' texts."""
        return self._texts("prompt")

    @property
    def negative_texts(self) -> tuple[str, ...]:
        """The negative prompts' texts, one for each prompt."""
        found = self._texts("negative_prompt")
        return found * len(self.texts) if len(found) == 1 else found

    def prompts(self, run_model: Model) -> tuple[Prompt, ...]:
        """The prompts, as the model reads them."""
        return tuple(
            PromptOfEmbeddings.by(self.get("prompt_embeds")) if t == GIVEN else run_model.read(t) for t in self.texts
        )

    def negative_prompts(self, run_model: Model) -> tuple[Prompt, ...]:
        """The negative prompts, as the model reads them."""
        embeds = self.get("negative_prompt_embeds")
        return tuple(
            PromptOfEmbeddings.by(embeds) if text == GIVEN else run_model.read(text) for text in self.negative_texts
        )

    def roles(self, model: Model, settings: Settings) -> tuple[Role, ...]:
        """Which groups of rows its denoiser will be shown."""
        told = self._says("negative_prompt") or self.get("negative_prompt_embeds") is not None
        if isinstance(model, Flux) and told and (self.get("true_cfg_scale") or 1.0) > 1:
            return ("cond", "uncond")  # each in a call of its own
        return model.roles(settings.guidance_scale)

    def settings(self, model: Model) -> Settings:
        """The settings of the run, as far as the arguments tell them; sizes are the pipeline's usual ones."""
        height, width = self._size(model)
        schedule = self.get("timesteps") or self.get("sigmas")
        scale, strength = self.get("guidance_scale"), self.get("strength")
        return Settings(
            prompt=self.texts,
            negative_prompt=self.negative_texts,
            negative_given=self._says("negative_prompt") or self.get("negative_prompt_embeds") is not None,
            steps=int(self.get("num_inference_steps")) if schedule is None else len(schedule),
            guidance_scale=1.0 if scale is None else float(scale),
            seed=seed_of(self.get("generator")),
            scheduler=type(model.pipe.scheduler).__name__,
            height=height,
            width=width,
            images_per_prompt=int(self.get("num_images_per_prompt") or 1),
            strength=None if strength is None else float(strength),
        )

    def _texts(self, name: str) -> tuple[str, ...]:
        given, embeds = self.get(name), self.get(f"{name}_embeds")
        if given is None and embeds is not None:
            return (GIVEN,) * len(embeds)
        return (given or "",) if given is None or isinstance(given, str) else tuple(given)

    def _says(self, name: str) -> bool:
        usual = self.bound.signature.parameters.get(name)
        return usual is not None and self.get(name) is not None and self.get(name) != usual.default

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


class PromptOfEmbeddings(Prompt):
    """A prompt of which only the embeddings were given: its words are not known."""

    @classmethod
    def by(cls, embeds: torch.Tensor) -> PromptOfEmbeddings:
        """The prompt of embeddings ``[batch, tokens, width]``; a token is called by its number."""
        numbers = range(embeds.shape[1])
        return cls("", tuple(numbers), tuple(f"token {i}" for i in numbers), UnknownWords())

    def occurrences(self, word: str) -> tuple[tuple[int, ...], ...]:
        raise _unknown()

    def positions(self, word: str | int, occurrence: int | None = None) -> tuple[int, ...]:
        if isinstance(word, int):
            return super().positions(word)
        raise _unknown()


class UnknownWords(Mapping[str, Any]):
    """In the place of a prompt's words: an error that says why there are none."""

    def __getitem__(self, word: str) -> Any:
        raise _unknown()

    def __iter__(self) -> Iterator[str]:
        raise _unknown()

    def __len__(self) -> int:
        raise _unknown()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnknownWords)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "(not known)"


def _unknown() -> WordNotInPrompt:
    return WordNotInPrompt(
        "the pipeline was given prompt_embeds instead of a text, so which words they hold is not known: ask for a "
        "token by its number, or give the pipeline the text"
    )
