"""`LimitedTextEdit`: a limited transform of the text.

A transform of the text acts before the first step. A limited one leaves the text unchanged there. In the steps and for
the rows where it acts, the denoiser gets the transformed text instead; limited to sites, only the cross-attention there
gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import asks, overrides
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.limits.row_subset import with_rows_of
from sdprobe.core.run import Conditioned, Role, Run, side_of
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text

TEXT = ("token_embeds", "prompt_embeds", "pooled_embeds")
Acting = frozenset[int]
"""The limited transforms of the text that act, by their numbers in the order given."""


class LimitedTextEdit(LimitedHook):
    """A limited transform of the text.

    If several act together, the first of them replaces the denoiser's input, with the text as all of them leave it.
    """

    def listen(self) -> None:
        super().listen()
        if self.by_sites:
            self.modules = None
            self.kinds = None if overrides(self.inner, "attention") else ("cross",)

    def begin(self, run: Run) -> Run:
        self.sites = _cross_sites(run) if self.by_sites else []
        if self.by_sites and not any(map(self.may_include_site, self.sites)):
            raise ValueError(
                f"{self!r}: limited to sites, a change of the text is shown to cross-attention, and of this model's "
                f"cross-attention these are none; limited to steps or rows, it is told to the whole network"
            )
        self.on = False
        self.texts: dict[Role, Text] = {}
        self.made: dict[Acting, dict[Role, Conditioned]] = {}
        return run

    def edit(self, point: str, x: Tensor, text: Text) -> Tensor:
        if self.on:
            changed: Tensor = getattr(self.inner, point)(x, text)
            return changed
        self.texts[text.role] = text
        return x

    def prepare(self, step: Step) -> None:
        """Encode the texts that this step may need: inside the denoiser, the encoder may not be available."""
        everywhere, at_sites = self.acting_in(step)
        for row in step.rows:
            always = [i for i, own in everywhere if own.includes_row(row)]
            some = [(i, own) for i, own in at_sites if own.includes_row(row)]
            for chosen in _together(some, self.sites) if self.by_sites else {()}:
                if self.is_first_of(acting := Acting((*always, *chosen)), step.run):
                    self.encode_with(acting, step.run)

    def replaced_arguments(self, step: Step) -> tuple[list[int], dict[str, Shaped[Tensor, "rows ..."]]]:
        """Return the rows whose denoiser arguments it replaces in a call, and the new arguments by name."""
        if self.by_sites:
            return [], {}
        everywhere, _ = self.acting_in(step)
        found = self.conditioning_by_row(step, everywhere)
        names = next(iter(found.values())).arguments if found else {}
        shared = [name for name in names if all(name in own.arguments for own in found.values())]
        return list(found), {name: _of_rows([own.arguments[name] for own in found.values()]) for name in shared}

    def replace_context(self, attn: Attention, site: Site) -> Attention:
        """Return the attention call with the text as changed by all limited transforms that act at this site."""
        everywhere, at_sites = self.acting_in(site.step)
        here = [*everywhere, *((i, own) for i, own in at_sites if own.includes_site(site))]
        found = self.conditioning_by_row(site.step, here)
        if not found:
            return attn
        # Computed for all rows at once, also the unchanged ones: the last bits may depend on the number of rows.
        count, filling = len(site.step.rows), next(iter(found.values()))
        shown = attn.with_context(torch.cat([found.get(i, filling).embeds for i in range(count)]))
        return shown if len(found) == count else with_rows_of(attn, list(found), shown, site.step)

    def conditioning_by_row(self, step: Step, here: Sequence[tuple[int, LimitedTextEdit]]) -> dict[int, Conditioned]:
        """Return the prompts that it replaces, by row, where all transforms in ``here`` act."""
        each, found = step.run.settings.images_per_prompt, {}
        every = _all(step.run)
        acted: set[int] = set()
        for i, row in enumerate(step.rows):
            if row.prompt != step.run.prompt_of(row.image, row.role):
                continue  # a callback has given the pipeline another prompt: what was changed of the text went with it
            acting = Acting(k for k, own in here if own.includes_row(row))
            made = self.encode_with(acting, step.run) if self.is_first_of(acting, step.run) else {}
            if side_of(row.role) in made:
                found[i] = made[side_of(row.role)].of([row.image // each])
                acted |= {k for k in acting if every[k].by_sites == self.by_sites}
        for k in acted:
            for point in TEXT:
                if overrides(every[k].inner, point):
                    every[k].count(point)
        return found

    def acting_in(self, step: Step) -> tuple[list[tuple[int, LimitedTextEdit]], list[tuple[int, LimitedTextEdit]]]:
        """Return the limited transforms of the text that act in a step, numbered: at every site, and at some."""
        own = [(i, own) for i, own in enumerate(_all(step.run)) if own.includes_step(step)]
        return [pair for pair in own if not pair[1].by_sites], [pair for pair in own if pair[1].by_sites]

    def is_first_of(self, acting: Acting, run: Run) -> bool:
        """Whether it is the first of its kind (limited to sites or not) among these."""
        every = _all(run)
        alike = [every[i] for i in sorted(acting) if every[i].by_sites == self.by_sites]
        return bool(alike) and alike[0] is self

    def encode_with(self, acting: Acting, run: Run) -> dict[Role, Conditioned]:
        """Return the prompts of each role, encoded while exactly these transforms act."""
        if acting in self.made:
            return self.made[acting]
        every = _all(run)
        texts = {role: text for i in sorted(acting) for role, text in every[i].texts.items()}
        try:
            for i, one in enumerate(every):
                one.on = i in acting
            self.made[acting] = {role: text.again() for role, text in texts.items()}
            return self.made[acting]
        finally:
            for one in every:
                one.on = False


def text_points(points: Sequence[str], by_sites: bool) -> dict[str, Callable[..., Any]]:
    """Return the methods that a limited transform of the text needs for itself."""
    editing = {point: _editing(point) for point in points if point in TEXT}
    showing = {"attention": _showing("attention" in points)} if by_sites else {}
    return {**editing, "latents": _preparing("latents" in points), **showing}


def _all(run: Run) -> list[LimitedTextEdit]:
    return [own for _, own in run.records if isinstance(own, LimitedTextEdit)]


def _of_rows(each: Sequence[Shaped[Tensor, "row ..."]]) -> Shaped[Tensor, "rows ..."]:
    """Return the arguments of some rows as one tensor: those of fewer tokens are followed by zeros."""
    if len({x.shape[1:] for x in each}) == 1:
        return torch.cat(list(each))
    longest = max(x.shape[1] for x in each)
    padded = [torch.cat([x, x.new_zeros(len(x), longest - x.shape[1], *x.shape[2:])], dim=1) for x in each]
    return torch.cat(padded)


def _editing(point: str) -> Callable[..., Any]:
    def act(self: Any, x: Tensor, text: Text) -> Any:
        return self.edit(point, x, text)

    return act


def _preparing(further: bool) -> Callable[..., Any]:
    def latents(self: Any, x: Tensor, step: Step) -> Any:
        if not self.includes_step(step):
            return x
        self.prepare(step)
        return self.call_inner("latents", x, step) if further else x

    return latents


def _showing(further: bool) -> Callable[..., Any]:
    def attention(self: Any, attn: Attention, site: Site) -> Any:
        if not self.acts_at(site):
            return attn
        if site.kind == "cross":
            attn = self.replace_context(attn, site)
        if further and asks(self.inner, site.name, site.kind):
            return self.call_inner("attention", attn, site)
        return attn

    return attention


def _cross_sites(run: Run) -> list[str]:
    """Return the names of a model's cross-attention modules."""
    return [name for name, module in run.model.modules.items() if run.model.attention_kind(module) == "cross"]


def _together(limited: Sequence[tuple[int, LimitedTextEdit]], sites: Sequence[str]) -> set[tuple[int, ...]]:
    """Return which transforms may act together at a site, by their patterns; one with a function may act or not."""
    found: set[tuple[int, ...]] = set()
    for name in sites:
        fixed = [i for i, own in limited if own.may_include_site(name) and not own.has_site_function]
        open_ = [i for i, own in limited if own.may_include_site(name) and own.has_site_function]
        found |= {(*fixed, *some) for n in range(len(open_) + 1) for some in combinations(open_, n)}
    return found
