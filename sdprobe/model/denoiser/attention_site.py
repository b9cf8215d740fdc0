"""`AttentionSite`: one attention module during one pass of the denoiser; each of its calls goes to the hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.model.denoiser.aligned_rows import AlignedRows
from sdprobe.model.denoiser.attention_calls import Receive, divert, is_receiving, restore
from sdprobe.model.denoiser.image_prompts import (
    KIND,
    attends_to_picture_first,
    has_image_prompts,
    image_prompt_calls,
    kinds_of,
)
from sdprobe.model.denoiser.rows_of_pass import rows_of_pass
from sdprobe.model.denoiser.sdpa_call import project_context, read_sdpa_call
from sdprobe.model.denoiser.token_layout import Layout

ATTENDS_TO = {"cross": "text", "self": "image", "joint": "image and text", "text": "text"}


class AttentionModule(NamedTuple):
    """What a run knows of an attention module that hooks ask for."""

    name: str
    kind: str
    place: str
    module: nn.Module
    backend: Any
    hooks_of: Callable[[str], Hooks]
    layout: Layout
    inlet: Sequence[nn.Module]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its calls."""
        return kinds_of(self.module, self.kind)


class AttentionSite:
    """One attention module during one pass.

    Args:
        of: the module.
        step: the step.
        passed: the sites passed in the run, to which it is added at its first call that is shown to hooks.
        aligned: the order of the rows' tokens, where the image follows texts of different lengths.

    Attributes:
        entered: whether the module ran.
        seen: the kind of each of its calls and what it attended to, in order.
    """

    def __init__(
        self, of: AttentionModule, step: Step, passed: dict[str, None], aligned: AlignedRows | None = None
    ) -> None:
        self.of, self.step, self.passed, self.aligned = of, step, passed, aligned
        self.entered = False
        self.seen: list[tuple[str, str]] = []
        self._arguments: Mapping[str, Any] = {}
        self._first_keys = 0
        self._before: tuple[Receive | None] | None = None

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if is_receiving():  # a hook calls the denoiser, or this module, by itself
            return
        self.entered = True
        self._arguments = kwargs
        self._before = (divert(self.receive, self.of.backend),)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not is_receiving():
            self.abandon()

    def abandon(self) -> None:
        """Stop receiving calls, if the module has not ended by itself."""
        if self._before is not None:
            restore(*self._before)
            self._before = None

    def receive(self, stock: Callable[..., Tensor], query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Pass one attention call through the hooks that ask for its kind."""
        of, keys = self.of, key.shape[-2]
        kind, attends_to = self._next(keys)
        self.seen.append((kind, attends_to))
        hooks = of.hooks_of(kind)
        if not len(hooks):
            return stock(query, key, *args, **kwargs)
        self.passed.setdefault(of.name)
        step, rows = self.step, self.step.rows
        if len(query) != len(rows):
            rows = rows_of_pass(rows, len(query), len(self.seen) - 1)
            step = replace(step, rows=rows)
        project = partial(project_context, of.module, kind, of.inlet)
        grid, image, text = of.layout.of(kind, query.shape[-2], keys)
        reference = of.layout.reference_after(image)
        of_call = (of.name, kind, of.place, grid, query.shape[1], step, image, text, attends_to)
        site = Site(*of_call, reference=reference)
        if kind == "joint" and self.aligned is not None:
            query, key, args, kwargs, stock = self.aligned.call(stock, query, key, *args, **kwargs)
            given = read_sdpa_call(query, key, *args, **kwargs, rows=rows, project=project, stock=stock)
            return self.aligned.own(hooks.attention(given, site).output(), 2)
        given = read_sdpa_call(query, key, *args, **kwargs, rows=rows, project=project, stock=stock)
        return hooks.attention(given, site).output()

    def _next(self, keys: int) -> tuple[str, str]:
        """Return the kind of the next call and what it attends to."""
        kind = self.of.kind
        if attends_to_picture_first(self.of.module):
            return (kind, ATTENDS_TO[kind]) if self.seen else (KIND, "image prompt 0")
        if not self.seen:
            self._first_keys = keys
            return kind, ATTENDS_TO[kind]
        if has_image_prompts(self.of.module):
            names = image_prompt_calls(self.of.module, self._arguments)
            if len(self.seen) <= len(names):
                return KIND, names[len(self.seen) - 1]
        # A processor that attends to the same keys twice; anything else is a context that is not known.
        return (kind, ATTENDS_TO[kind]) if keys == self._first_keys else ("other", "another context")
