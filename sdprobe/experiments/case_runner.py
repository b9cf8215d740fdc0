"""`CaseRunner`: run one case, without hooks, with some, or under many conditions in one batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypedDict, runtime_checkable

from sdprobe.core.compose import Hook
from sdprobe.core.given_hooks import Given
from sdprobe.core.hook import Transform
from sdprobe.core.limits.only import only
from sdprobe.core.limits.row_subset import PartialRun
from sdprobe.core.prompt import Prompt
from sdprobe.core.registry import resolve
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case


class SampleSettings(TypedDict, total=False):
    """Settings of `sdprobe.sample` that are the same for all cases and conditions."""

    steps: int
    guidance_scale: float
    scheduler: Any
    height: int
    width: int
    frames: int
    guidance_scale_2: float


@runtime_checkable
class Sampler(Protocol):
    """Something that makes pictures under hooks: a model, or an attached pipeline."""

    @property
    def identity(self) -> str:
        """What tells it from another."""
        ...

    def read(self, case: Case) -> Prompt:
        """Return the prompt of a case as the model reads it."""
        ...

    def sample(self, cases: Sequence[Case], hooks: Sequence[Hook], settings: SampleSettings) -> Run:
        """Make one image of each case."""
        ...


class CaseRunner:
    """Runs one case.

    >>> import sdprobe
    >>> from sdprobe.experiments.sampler import sampler_of
    >>> runner = CaseRunner(sampler_of(sdprobe.load()), Case("a red circle"), {"steps": 2})
    >>> swap = sdprobe.ReplaceToken("red", with_="blue")
    >>> plain, swapped = runner.run_together([[], [swap]])
    >>> bool((plain.latents == swapped.latents).all()), swapped.settings.images
    (False, 1)

    Args:
        sampler: the model.
        case: the case.
        settings: of `sdprobe.sample`.
    """

    def __init__(self, sampler: Sampler, case: Case, settings: SampleSettings) -> None:
        self.sampler, self.case, self.settings = sampler, case, settings
        self._kept: dict[str, Any] = {}

    def read(self, prompt: str | None = None) -> Prompt:
        """Return the case's prompt, or another, as the model reads it."""
        return self.sampler.read(self.case if prompt is None else replace(self.case, prompt=prompt))

    def run(self, hooks: Given = (), **changes: Any) -> Run:
        """Run the case alone, with hooks, or with some of its settings changed: ``prompt="a blue circle"``.

        The noise is that of the case, also where the sampler finds it from the case's picture and prompt.
        """
        return self._run([replace(self.case, **changes)], [hooks])[0]

    def once(self, name: str, make: Any) -> Any:
        """Return what a function makes; several conditions of the case that ask under one name share it."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def run_together(self, stacks: Sequence[Given]) -> list[Run]:
        """Run the case once under each stack of hooks, in one batch, and return a run of one image for each.

        A stack acts on its own image only (`sdprobe.only`), so the result is that of a run by itself, up to the
        rounding of larger matrices. Raises ValueError for hooks that cannot be limited to one image (`can_share`).
        """
        return self._run([self.case] * len(stacks), stacks)

    def _run(self, cases: Sequence[Case], stacks: Sequence[Given]) -> list[Run]:
        several = len(stacks) > 1
        given: list[list[tuple[Hook, Hook]]] = []
        names: list[Mapping[str, object]] = []
        for i, stack in enumerate(stacks):
            hooks, by_name = resolve(stack)
            # A hook that is in several stacks is another one in each: its records are of its own image.
            given.append([(own, only(copy.copy(own), rows=[i]) if several else own) for own in hooks])
            names.append(by_name)
        sampler = self.sampler if cases[0].prompt == self.case.prompt else of_noise(self.sampler, self.case.prompt)
        whole = sampler.sample(cases, [limited for pairs in given for _, limited in pairs], self.settings)
        runs = []
        for i, pairs in enumerate(given):
            part = PartialRun(whole, [i]) if several else whole
            part.records = [(own, whole[limited]) for own, limited in pairs]
            part.names = dict(names[i])
            runs.append(part)
        return runs


@runtime_checkable
class FindsNoise(Protocol):
    """A sampler that finds the noise of a case from its picture and prompt."""

    def of_noise(self, prompt: str) -> Sampler:
        """Return a sampler that finds the noise with this prompt, whatever is then sampled from it."""
        ...


def of_noise(sampler: Sampler, prompt: str) -> Sampler:
    """Return the sampler, to be used for other prompts with the noise of this one."""
    return sampler.of_noise(prompt) if isinstance(sampler, FindsNoise) else sampler


def can_share(stack: Given) -> bool:
    """Whether hooks can act on one image of a batch and leave the others as they are.

    Not those that add words to the prompts of their run, that need gradients, for which every image would pay, or that
    `sdprobe.only` cannot limit to rows.
    """
    with suppress(ValueError):
        hooks = [only(own, rows=[0]) for own in resolve(stack)[0]]
        return not any(isinstance(own, Transform) and (own.needs_grad or own.brings) for own in hooks)
    return False
