"""`only`: a hook at some steps, or at some sites of the denoiser.

What a hook does to the text happens before the first step. Limited, such a hook leaves the text as it is; where it is
to act, cross-attention is shown the conditioning that it would have made, as if the denoiser had been given that one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain, combinations
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.attention import Attention
from sdprobe.compose import Hook, Hooks
from sdprobe.hook import POINTS, Observer, Transform, asks, overrides
from sdprobe.run import Role, Run, Site, Step, Text

Steps = Container[int] | Callable[[Step], bool]
Sites = str | Sequence[str] | Callable[[Site], bool]
TEXT = ("token_embeds", "prompt_embeds")
AT_SITES = ("attention", "activation")


def only(hook: Hook | Hooks, *, steps: Steps | None = None, sites: Sites | None = None) -> Any:
    """The hook, acting at these steps and these sites only; it is a hook of the same kind.

    Points that lie outside the steps (`final_latents`, `image`, and the text for an observer) stay as they are. A
    transform of the text acts through cross-attention: what if only these steps, or only these layers, had seen the
    other word?

    >>> import sdprobe
    >>> model, late = sdprobe.load(), range(4, 8)
    >>> swap = sdprobe.only(sdprobe.ReplaceToken("circle", with_="star"), steps=late)
    >>> coarse = sdprobe.only(sdprobe.ReplaceToken("red", with_="blue"), sites=lambda site: site.grid == (8, 8))
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(
    ...     model, "a red circle", hooks=[swap, coarse, sdprobe.only(maps, steps=late)], steps=8, progress=False
    ... )
    >>> run[maps].heat_map("circle")
    HeatMap('circle', 16×16)

    Args:
        hook: a hook, or several as one.
        steps: step numbers, 0 the first (``range(10)``, ``{0, 5}``), or a function of the `Step` that says yes or no.
        sites: patterns on the dotted names of modules (``"up_blocks.*"``), or a function of the `Site`.

    Returns:
        A hook. What the hook within recorded is read as ever, from ``run[hook]``.

    Raises:
        ValueError: for sites where the hook says nothing at any site, and for patterns that match no module.
    """
    if isinstance(hook, Hooks):
        return Hooks(*(only(leaf, steps=steps, sites=sites) for leaf in hook))
    (hook,) = Hooks(hook)  # refuses what is no hook
    points = tuple(point for point in POINTS if overrides(hook, point))
    edits_text = isinstance(hook, Transform) and any(point in TEXT for point in points)
    if not points:
        raise ValueError(f"{hook!r} acts at no point, so there is nothing to limit")
    if sites is not None and not edits_text and not any(point in AT_SITES for point in points):
        raise ValueError(f"{hook!r} acts at {', '.join(points)}, which no site has: only `steps` can limit it")
    if edits_text and "activation" in points:
        raise ValueError(f"{hook!r} acts on the text and on activations: to limit it, make two hooks of it")
    return _limited(isinstance(hook, Transform), points, edits_text)(hook, steps, sites)


class _Only:
    """What every limited hook does, whichever points it has."""

    inner: Any
    edits_text: bool

    def __init__(self, hook: Hook, steps: Steps | None, sites: Sites | None) -> None:
        self.inner, self.steps = hook, steps
        self.sites = (sites,) if isinstance(sites, str) else sites
        looks = overrides(hook, "attention")
        self.modules = None if self.edits_text else hook.modules
        self.kinds = hook.kinds if not self.edits_text else None if looks else ("cross",)
        self.strict = hook.strict
        if isinstance(hook, Transform):
            self.needs_grad = hook.needs_grad

    def start(self, run: Run) -> None:
        given, self.inner = self.inner, copy.copy(self.inner)
        run.records.append((given, self.inner))
        names = [name for name, _ in run.model.denoiser.named_modules()]
        for pattern in () if callable(self.sites) else self.sites or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"the site pattern {pattern!r} matches no module of this model")
        self.inner.start(run)

    def finish(self, run: Run) -> None:
        self.inner.finish(run)

    def during(self, step: Step) -> bool:
        """Whether it acts in a step."""
        if self.steps is None:
            return True
        return self.steps(step) if callable(self.steps) else step.index in self.steps

    def beside(self, site: Site) -> bool:
        """Whether it acts at a site, in a step in which it does."""
        if self.sites is None or callable(self.sites):
            return self.sites is None or self.sites(site)
        return any(fnmatchcase(site.name, pattern) for pattern in self.sites)

    def here(self, place: Text | Step | Site | Run) -> bool:
        """Whether it acts at a place; outside the steps it always does."""
        if isinstance(place, Site):
            return self.during(place.step) and self.beside(place)
        return not isinstance(place, Step) or self.during(place)

    def __repr__(self) -> str:
        said = {"steps": self.steps, "sites": self.sites}
        limits = "".join(f", {name}={value!r}" for name, value in said.items() if value is not None)
        return f"only({self.inner!r}{limits})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.inner, self.steps, self.sites)


class _OnlyText(_Only):
    """A limited transform of the text."""

    def start(self, run: Run) -> None:
        self.on = False
        self.texts: dict[Role, Text] = {}
        self.contexts: dict[frozenset[int], dict[Role, Tensor]] = {}
        super().start(run)

    def edited(self, point: str, x: Tensor, text: Text) -> Tensor:
        if self.on:
            changed: Tensor = getattr(self.inner, point)(x, text)
            return changed
        self.texts[text.role] = text
        return x

    def prepare(self, step: Step) -> None:
        """Encode what it may show this step's sites: now, since in between the encoder may not be at hand."""
        before = self.until(step)
        always = [i for i, own in before if own.sites is None or own is self]
        some = [i for i, own in before if own.sites is not None and own is not self]
        for chosen in _subsets(some):
            acting = frozenset((*always, *chosen))
            if acting not in self.contexts:
                self.contexts[acting] = self.context(step, acting)

    def shown(self, attn: Attention, site: Site) -> Attention:
        """The attention as it would be if the text had been changed by this hook, and those limited ones before it."""
        acting = frozenset(i for i, own in self.until(site.step) if own.beside(site))
        made, each = self.contexts[acting], site.step.run.settings.images_per_prompt
        return attn.with_context(torch.stack([made[row.role][row.image // each] for row in site.step.rows]))

    def until(self, step: Step) -> list[tuple[int, _OnlyText]]:
        """The limited transforms of the text that act in a step, numbered, up to this one."""
        own = [own for _, own in step.run.records if isinstance(own, _OnlyText)]
        return [(i, one) for i, one in enumerate(own[: own.index(self) + 1]) if one.during(step)]

    def context(self, step: Step, acting: frozenset[int]) -> dict[Role, Shaped[Tensor, "batch tokens width"]]:
        own = [own for _, own in step.run.records if isinstance(own, _OnlyText)]
        try:
            for i, one in enumerate(own):
                one.on = i in acting
            return {role: text.again() for role, text in self.texts.items()}
        finally:
            for one in own:
                one.on = False


@cache
def _limited(changes: bool, points: tuple[str, ...], edits_text: bool) -> type:
    """The class of a limited hook: it has the points of the hook within, and no others but those it needs itself."""
    base = Transform if changes else Observer
    methods: dict[str, Any] = {point: _passing(point) for point in points}
    if edits_text:
        methods |= {point: _editing(point) for point in points if point in TEXT}
        methods |= {"latents": _preparing("latents" in points), "attention": _showing("attention" in points)}
    return type("Only", (_OnlyText if edits_text else _Only, base), {"edits_text": edits_text, **methods})


def _passing(point: str) -> Callable[..., Any]:
    def act(self: Any, x: Any, place: Any) -> Any:
        if self.here(place):
            return getattr(self.inner, point)(x, place)
        return x if isinstance(self, Transform) else None

    return act


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


def _again(hook: Hook, steps: Steps | None, sites: Sites | None) -> Any:
    return only(hook, steps=steps, sites=sites)


def _subsets(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(numbers, n) for n in range(len(numbers) + 1))
