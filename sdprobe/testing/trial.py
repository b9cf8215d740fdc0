"""What a law is tried with: the hook, toy models, and runs of two steps in the settings that hooks must stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdprobe.compose import Hook, Hooks
from sdprobe.hook import Observer, Transform
from sdprobe.model.base import Model
from sdprobe.model.toy import toy_model, turned_round
from sdprobe.run import Run, Text
from sdprobe.sampler import sample
from sdprobe.testing.footprint import footprint
from sdprobe.testing.records import Records, records_of


class DoesNotApply(Exception):
    """A law has nothing to say of a hook; the message says why."""


@dataclass(frozen=True)
class Toy:
    """Which toy model; two of different numbers are alike."""

    dtype: torch.dtype | None = None
    device: str | None = None
    turned_round: bool = False
    number: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """A kind of run.

    Args:
        changed: arguments of `sample` other than the usual ones.
        endings: what is appended to the prompt, for each of several prompts.
        toy: on which model.
    """

    changed: Mapping[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = ()
    toy: Toy = Toy()

    def arguments(self, prompt: str) -> dict[str, Any]:
        """What `sample` is given."""
        texts = [prompt + ending for ending in self.endings] or prompt
        usual = {"prompt": texts, "steps": 2, "guidance_scale": 3.0, "seed": 0, "progress": False}
        return usual | dict(self.changed)


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
    """

    factory: Callable[[], Hook | Hooks]
    prompt: str = "a red circle"
    unrepeatable: frozenset[str] = frozenset()

    def hook(self) -> Hook:
        """The hook, made anew. Raises TypeError for a factory that does not make one hook."""
        made = Hooks(self.factory())
        if len(made) != 1:
            raise TypeError(f"a factory makes one hook, but this one made {len(made)}: {made!r}")
        return made.leaves[0]

    def run(self, *hooks: Hook | Hooks, setting: Setting = STANDARD, model: Model | None = None, **changed: Any) -> Run:
        """A run past the hooks.

        Raises DoesNotApply where a hook refuses such a run before its first point, as it should what it cannot do.
        """
        arguments = setting.arguments(self.prompt) | changed
        model = toy(setting.toy)[0] if model is None else model
        try:
            return sample(model, hooks=hooks, **arguments)
        except (ValueError, NotImplementedError) as error:
            witness = Witness()
            with suppress(Exception):
                sample(model, hooks=(witness, *hooks), **arguments)
            if witness.passed:
                raise
            raise DoesNotApply(f"it refuses such a run: {error}") from error

    def plain(self, setting: Setting = STANDARD) -> Run:
        """The run without the hook."""
        return _plain(setting, self.prompt)

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


@cache
def toy(which: Toy = Toy()) -> tuple[Model, dict[str, Any]]:
    """A toy model, made once, and its footprint when it was new."""
    model = toy_model(dtype=which.dtype, device=which.device)
    model = turned_round(model) if which.turned_round else model
    return model, footprint(model.pipe)


@cache
def _plain(setting: Setting, prompt: str) -> Run:
    return sample(toy(setting.toy)[0], **setting.arguments(prompt))
