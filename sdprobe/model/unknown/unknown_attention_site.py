"""`UnknownAttentionSite`: an attention module of a network that no family knows, during one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from diffusers.models.attention_processor import Attention as AttentionModule
from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.rows import Row
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.model.denoiser.attention_calls import Receive, backend_of, divert, is_receiving, restore
from sdprobe.model.denoiser.sdpa_call import project_context, read_sdpa_call
from sdprobe.model.unknown.attention_kinds import ATTENDS_TO, is_attention, kind_of_call

RowsOf = Callable[[Sequence[Row], int], tuple[Row, ...]]
"""Returns the rows of a tensor with so many entries, from those of the pass."""


@dataclass(frozen=True)
class AskedAttention:
    """An attention module that hooks ask for.

    Args:
        name: its name.
        kind: its kind, as far as it is known before it runs.
        place: the part of the network that it is in.
        module: the module.
        hooks_of: the hooks at a call of a kind.
        rows_of: what the entries of its tensors are.
    """

    name: str
    kind: str
    place: str
    module: nn.Module
    hooks_of: Callable[[str], Hooks]
    rows_of: RowsOf

    @property
    def is_sure(self) -> bool:
        """Whether it is known that it computes attention, and not only named so."""
        return is_attention(self.module)


class UnknownAttentionSite:
    """One attention module during one pass of its network.

    Args:
        of: the module.
        step: the step.
        passed: the sites passed in the run, to which it is added at its first call that is shown to hooks.

    Attributes:
        entered: whether the module ran.
        seen: how many calls of each kind were passed.
        unseen: why a call could not be passed; None if none was left out.
    """

    def __init__(self, of: AskedAttention, step: Step, passed: dict[str, None]) -> None:
        self.of, self.step, self.passed = of, step, passed
        self.entered = False
        self.seen = Counter[str]()
        self.unseen: str | None = None
        self._calls = 0
        self._before: list[Receive | None] = []

    def register(self) -> list[Any]:
        """Listen to the module; returns what ends it."""
        module = self.of.module
        opened = module.register_forward_pre_hook(self.enter)
        return [opened, module.register_forward_hook(self.leave, always_call=True)]

    def enter(self, module: nn.Module, args: Any) -> None:
        if not is_receiving():
            self.entered = True
            self._before.append(divert(self.receive, backend_of(module)))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not is_receiving():
            self.abandon()

    def abandon(self) -> None:
        """Stop receiving calls, if the module has not ended by itself."""
        if self._before:
            restore(self._before.pop())

    def receive(self, stock: Callable[..., Tensor], query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Pass one attention call through the hooks that ask for its kind."""
        of, keys = self.of, key.shape[-2]
        kind = kind_of_call(of.module, of.kind, query.shape[-2], keys)
        hooks = of.hooks_of(kind)
        if why := _not_shown(query, args, kwargs):
            self.unseen = why
        if why or not len(hooks):
            return stock(query, key, *args, **kwargs)
        self.seen[kind] += 1
        self.passed.setdefault(of.name)
        rows = of.rows_of(self.step.rows, len(query))
        step = self.step if rows is self.step.rows else replace(self.step, rows=rows)
        own = isinstance(of.module, AttentionModule) and kind == "cross"
        project = partial(project_context, of.module, kind, ()) if own else None
        given = read_sdpa_call(query, key, *args, **kwargs, rows=rows, project=project, stock=stock)
        text = slice(0, keys) if kind == "cross" else None
        image = slice(0, query.shape[-2])
        site = Site(
            of.name, kind, of.place, None, query.shape[1], step, image, text, ATTENDS_TO[kind], call=self._calls
        )
        self._calls += 1
        return hooks.attention(given, site).output()


def _not_shown(query: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why a call cannot be shown to hooks; None if it can."""
    given = dict(zip(("value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | dict(kwargs)
    if given.get("is_causal") or given.get("dropout_p"):
        return "its attention is causal or drops out, which hooks are not shown"
    return None if query.ndim == 4 else f"its query has {query.ndim} axes, and hooks are shown those of 4"
