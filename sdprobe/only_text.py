"""A limited transform of the text.

What a hook does to the text happens before the first step. Limited, such a hook leaves the text as it is; where it is
to act, cross-attention is shown the conditioning that it would have made, as if the denoiser had been given that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.attention import Attention
from sdprobe.compose import Hook
from sdprobe.hook import asks, overrides
from sdprobe.limited import Limit, Only
from sdprobe.narrowing import with_rows_of
from sdprobe.run import Role, Row, Run, Site, Step, Text

TEXT = ("token_embeds", "prompt_embeds")


class OnlyText(Only):
    """A limited transform of the text."""

    def __init__(self, hook: Hook, limits: tuple[Limit, ...]) -> None:
        super().__init__(hook, limits)
        self.modules = None
        self.kinds = None if overrides(hook, "attention") else ("cross",)

    def begin(self, run: Run) -> Run:
        self.on = False
        self.texts: dict[Role, Text] = {}
        self.contexts: dict[frozenset[int], dict[Role, Tensor]] = {}
        return run

    def edited(self, point: str, x: Tensor, text: Text) -> Tensor:
        if self.on:
            changed: Tensor = getattr(self.inner, point)(x, text)
            return changed
        self.texts[text.role] = text
        return x

    def prepare(self, step: Step) -> None:
        """Encode what it may show this step's sites: now, since in between the encoder may not be at hand."""
        for row in step.rows:
            before = self.until(step, row) if self.holds(row) else []
            always = [i for i, own in before if not own.by_sites or own is self]
            some = [i for i, own in before if own.by_sites and own is not self]
            for chosen in _subsets(some) if before else ():
                acting = frozenset((*always, *chosen))
                if acting not in self.contexts:
                    self.contexts[acting] = self.context(step, acting)

    def shown(self, attn: Attention, site: Site) -> Attention:
        """The attention as it would be if the text had been changed by this hook, and those limited ones before it."""
        rows, each = site.step.rows, site.step.run.settings.images_per_prompt
        held = [i for i, row in enumerate(rows) if self.holds(row)]
        if not held:
            return attn
        acting = {i: frozenset(k for k, own in self.until(site.step, rows[i]) if own.beside(site)) for i in held}
        # Made of all rows at once, those that stay as they are included: a kernel's last bits may depend on how many.
        made = [self.contexts[acting.get(i, acting[held[0]])][row.role] for i, row in enumerate(rows)]
        shown = attn.with_context(torch.stack([own[row.image // each] for own, row in zip(made, rows, strict=True)]))
        return shown if len(held) == len(rows) else with_rows_of(attn, held, shown, site.step)

    def until(self, step: Step, row: Row) -> list[tuple[int, OnlyText]]:
        """The limited transforms of the text that act on a row in a step, numbered, up to this one."""
        own = [own for _, own in step.run.records if isinstance(own, OnlyText)]
        before = own[: own.index(self) + 1]
        return [(i, one) for i, one in enumerate(before) if one.during(step) and one.holds(row)]

    def context(self, step: Step, acting: frozenset[int]) -> dict[Role, Shaped[Tensor, "batch tokens width"]]:
        own = [own for _, own in step.run.records if isinstance(own, OnlyText)]
        try:
            for i, one in enumerate(own):
                one.on = i in acting
            return {role: text.again() for role, text in self.texts.items()}
        finally:
            for one in own:
                one.on = False


def text_points(points: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """The methods that a limited transform of the text has for its own purposes."""
    editing = {point: _editing(point) for point in points if point in TEXT}
    return {**editing, "latents": _preparing("latents" in points), "attention": _showing("attention" in points)}


def _editing(point: str) -> Callable[..., Any]:
    def act(self: Any, x: Tensor, text: Text) -> Any:
        return self.edited(point, x, text)

    return act


def _preparing(further: bool) -> Callable[..., Any]:
    def latents(self: Any, x: Tensor, step: Step) -> Any:
        if not self.during(step):
            return x
        self.prepare(step)
        return self.inner.latents(x, step) if further else x

    return latents


def _showing(further: bool) -> Callable[..., Any]:
    def attention(self: Any, attn: Attention, site: Site) -> Any:
        if not self.here(site):
            return attn
        if site.kind == "cross":
            attn = self.shown(attn, site)
        return self.inner.attention(attn, site) if further and asks(self.inner, site.name, site.kind) else attn

    return attention


def _subsets(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(numbers, n) for n in range(len(numbers) + 1))
