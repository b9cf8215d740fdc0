"""`Trial`: the hook under test, small models, and runs of two steps in several settings."""

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
from sdprobe.core.run import Run
from sdprobe.core.text import Text
from sdprobe.model.base import Model
from sdprobe.model.diffusion.noise_levels import is_flow
from sdprobe.model.loading import load
from sdprobe.model.toy_model import toy_pipeline, with_roles_reversed
from sdprobe.sampling.loop import sample
from sdprobe.testing.flat_records import Records, records_of
from sdprobe.testing.model_footprint import footprint

SIDE = 16
"""The side of the images, in pixels."""


class DoesNotApply(Exception):
    """A law does not apply to a hook; the message says why."""


@dataclass(frozen=True)
class Variant:
    """One of a family's small models; two with different numbers are alike."""

    dtype: torch.dtype | None = None
    device: str | None = None
    with_roles_reversed: bool = False
    number: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """A kind of run.

    Args:
        changed: arguments of `sample` that differ from the usual ones.
        in_a_flow: further arguments for a flow model, which has its own schedulers.
        endings: texts appended to the prompt, one for each of several prompts.
        variant: the model.
    """

    changed: Mapping[str, Any] = field(default_factory=dict)
    in_a_flow: Mapping[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = ()
    variant: Variant = Variant()

    def arguments(self, prompt: str | tuple[str, ...], model: Model) -> dict[str, Any]:
        """Return the arguments of `sample` other than the model."""
        given = (prompt,) if isinstance(prompt, str) else prompt
        ended = [own + ending for ending in self.endings or ("",) for own in given]
        texts = ended[0] if isinstance(prompt, str) and not self.endings else ended
        usual = {"prompt": texts, "steps": 2, "guidance_scale": 3.0, "seed": 0, "height": SIDE, "width": SIDE}
        of_flows = self.in_a_flow if is_flow(model.pipe.scheduler) else {}
        return {**usual, "progress": False, **self.changed, **of_flows}


STANDARD = Setting()


class Alone(NamedTuple):
    """An ordinary run with only this hook, and its records at the end."""

    run: Run
    records: Records


@dataclass(frozen=True)
class Trial:
    """One hook under test.

    Args:
        factory: makes a new hook.
        prompt: the prompt of its runs, or several.
        unrepeatable: names of records that may differ between equal runs.
        pipeline: makes the pipeline of the model.
        way: makes a run, with the arguments of `sample`.
    """

    factory: Callable[[], Hook | Hooks]
    prompt: str | tuple[str, ...] = "a red circle"
    unrepeatable: frozenset[str] = frozenset()
    pipeline: Callable[[], Any] = toy_pipeline
    way: Callable[..., Run] = sample

    def hook(self) -> Hook:
        """Make a new hook. Raises TypeError for a factory that does not make one hook."""
        made = Hooks(self.factory())
        if len(made) != 1:
            raise TypeError(f"a factory makes one hook, but this one made {len(made)}: {made!r}")
        return made.leaves[0]

    def run(self, *hooks: Hook | Hooks, setting: Setting = STANDARD, model: Model | None = None, **changed: Any) -> Run:
        """Run with the hooks.

        Raises DoesNotApply if a hook, or the model, refuses the run before its first point, as it should if it does not
        support it.
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
        """Return the run without the hook."""
        return _plain(self.pipeline, self.way, setting, self.prompt)

    def model(self, variant: Variant = Variant()) -> tuple[Model, dict[str, Any]]:
        """Return a small model, made once, and its footprint when it was new."""
        return _model(self.pipeline, self.way, variant)

    def records(self, run: Run, hook: Hook) -> Records:
        """Return the records of a run's copy of a hook, without the unrepeatable ones."""
        return records_of(run[hook], self.unrepeatable)

    @cached_property
    def alone(self) -> Alone:
        """Return an ordinary run with the hook, made once, to compare other runs with."""
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
    """Comes first, and records whether a run reached its first point."""

    def __init__(self) -> None:
        self.passed: list[bool] = []  # shared with the run's copy on purpose

    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        self.passed.append(True)
        return x


# Enough for the models of one pipeline; of many pipelines in turn, only the last ones are kept.
@lru_cache(maxsize=8)
def _model(pipeline: Callable[[], Any], way: Callable[..., Run], variant: Variant) -> tuple[Model, dict[str, Any]]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # weights use the global generator
        made = pipeline()
    made.set_progress_bar_config(disable=True)
    model = load(made, dtype=variant.dtype, device=variant.device)
    model = with_roles_reversed(model) if variant.with_roles_reversed else model
    # Changes that the libraries make at the first use of a model are not those of a hook.
    way(model, **STANDARD.arguments("", model))
    return model, footprint(made)


@lru_cache(maxsize=32)
def _plain(
    pipeline: Callable[[], Any], way: Callable[..., Run], setting: Setting, prompt: str | tuple[str, ...]
) -> Run:
    model, _ = _model(pipeline, way, setting.variant)
    return way(model, **setting.arguments(prompt, model))


def forget_models() -> None:
    """Make every model again, so that changes by one hook do not affect another."""
    _model.cache_clear()
    _plain.cache_clear()
