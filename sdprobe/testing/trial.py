"""What a law is tried with: the hook, small models, and runs of two steps in the settings that hooks must stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.run import Run, Text
from sdprobe.model.base import Model
from sdprobe.model.diffusion.noise_levels import is_flow
from sdprobe.model.loading import load
from sdprobe.model.toy_model import toy_pipeline, with_roles_reversed
from sdprobe.sampling.loop import sample
from sdprobe.testing.flat_records import Records, records_of
from sdprobe.testing.model_footprint import footprint

SIDE = 16
"""Of the pictures, in pixels, each way."""


class DoesNotApply(Exception):
    """A law has nothing to say of a hook; the message says why."""


@dataclass(frozen=True)
class Variant:
    """Which of a family's small models; two of different numbers are alike."""

    dtype: torch.dtype | None = None
    device: str | None = None
    with_roles_reversed: bool = False
    number: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """A kind of run.

    Args:
        changed: arguments of `sample` other than the usual ones.
        in_a_flow: what is changed besides where the model's noise is a flow's, which has schedulers of its own.
        endings: what is appended to the prompt, for each of several prompts.
        variant: on which model.
    """

    changed: Mapping[str, Any] = field(default_factory=dict)
    in_a_flow: Mapping[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = ()
    variant: Variant = Variant()

    def arguments(self, prompt: str, model: Model) -> dict[str, Any]:
        """What `sample` is given beside the model."""
        texts = [prompt + ending for ending in self.endings] or prompt
        usual = {"prompt": texts, "steps": 2, "guidance_scale": 3.0, "seed": 0, "height": SIDE, "width": SIDE}
        of_flows = self.in_a_flow if is_flow(model.pipe.scheduler) else {}
        return {**usual, "progress": False, **self.changed, **of_flows}


STANDARD = Setting()


class Alone(NamedTuple):
    """An ordinary run past the hook alone, and what it had recorded when it ended."""

    run: Run
    records: Records


@dataclass(frozen=True)
class Trial:
    """One hook on trial.

    Args:
        factory: makes the hook anew.
        prompt: what its runs draw.
        unrepeatable: names of records that may differ between equal runs.
        pipeline: makes the pipeline of the model that it runs on.
        way: what makes a run, with the arguments of `sample`.
    """

    factory: Callable[[], Hook | Hooks]
    prompt: str = "a red circle"
    unrepeatable: frozenset[str] = frozenset()
    pipeline: Callable[[], Any] = toy_pipeline
    way: Callable[..., Run] = sample

    def hook(self) -> Hook:
        """The hook, made anew. Raises TypeError for a factory that does not make one hook."""
        made = Hooks(self.factory())
        if len(made) != 1:
            raise TypeError(f"a factory makes one hook, but this one made {len(made)}: {made!r}")
        return made.leaves[0]

    def run(self, *hooks: Hook | Hooks, setting: Setting = STANDARD, model: Model | None = None, **changed: Any) -> Run:
        """A run past the hooks.

        Raises DoesNotApply where a hook, or the model, refuses such a run before its first point, as it should what it
        cannot do.
        """
        model = self.model(setting.variant)[0] if model is None else model
        arguments = setting.arguments(self.prompt, model) | changed
        try:
            return self.way(model, hooks=hooks, **arguments)
        except (ValueError, NotImplementedError) as error:
            witness = Witness()
            with suppress(Exception):
                self.way(model, hooks=(witness, *hooks), **arguments)
            if witness.passed:
                raise
            raise DoesNotApply(f"it refuses such a run: {error}") from error

    def plain(self, setting: Setting = STANDARD) -> Run:
        """The run without the hook."""
        return _plain(self.pipeline, self.way, setting, self.prompt)

    def model(self, variant: Variant = Variant()) -> tuple[Model, dict[str, Any]]:
        """A small model, made once, and its footprint when it was new."""
        return _model(self.pipeline, self.way, variant)

    def records(self, run: Run, hook: Hook) -> Records:
        """What a run's copy of a hook holds, but for what may differ."""
        return records_of(run[hook], self.unrepeatable)

    @cached_property
    def alone(self) -> Alone:
        """An ordinary run past the hook, made once: what other runs are held against."""
        hook = self.hook()
        run = self.run(hook)
        return Alone(run, self.records(run, hook))

    @cached_property
    def observes(self) -> bool:
        """Whether the hook is an observer."""
        return isinstance(self.hook(), Observer)

    def observers_only(self) -> None:
        """Raises DoesNotApply for a transform."""
        if not self.observes:
            raise DoesNotApply("it is a transform, which is there to change values")

    def transforms_only(self) -> None:
        """Raises DoesNotApply for an observer."""
        if self.observes:
            raise DoesNotApply("it is an observer, which changes no value")


class Witness(Transform):
    """Stands first, and tells whether a run came as far as its first point."""

    def __init__(self) -> None:
        self.passed: list[bool] = []  # the run's copy shares it, and is meant to

    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        self.passed.append(True)
        return x


# So many that the models of one pipeline are kept; of many pipelines, one after the other, only the latest.
@lru_cache(maxsize=8)
def _model(pipeline: Callable[[], Any], way: Callable[..., Run], variant: Variant) -> tuple[Model, dict[str, Any]]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # weights are drawn from the global generator
        made = pipeline()
    made.set_progress_bar_config(disable=True)
    model = load(made, dtype=variant.dtype, device=variant.device)
    model = with_roles_reversed(model) if variant.with_roles_reversed else model
    # What the libraries themselves leave on a model that is used for the first time is no trace of a hook.
    way(model, **Setting({"steps": 1}).arguments("", model))
    return model, footprint(made)


@lru_cache(maxsize=32)
def _plain(pipeline: Callable[[], Any], way: Callable[..., Run], setting: Setting, prompt: str) -> Run:
    model, _ = _model(pipeline, way, setting.variant)
    return way(model, **setting.arguments(prompt, model))


def forget_models() -> None:
    """Make every model anew: what a hook may have left on one is not to be held against another."""
    _model.cache_clear()
    _plain.cache_clear()
