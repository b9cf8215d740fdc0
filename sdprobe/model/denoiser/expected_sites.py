"""Tell hooks, before the first step, at which attention sites they will be called."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

from sdprobe.core.call_hook import called
from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Observer, asks, overrides
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.prompt import Prompt
from sdprobe.core.rows import Role
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.model.denoiser.image_prompts import kinds_of
from sdprobe.model.denoiser.module_hooks import place_of
from sdprobe.model.denoiser.token_layout import Grid, Layout


def tell_expected_sites(run_model: Any, run: Run, hooks: Hooks) -> None:
    """Call `Observer.expect_sites` of the hooks that have it, in order."""
    asking = [
        (hook, inner)
        for hook in hooks.at("attention")
        if isinstance(inner := hook.inner if isinstance(hook, LimitedHook) else hook, Observer)
        and overrides(inner, "expect_sites")
    ]
    if not asking:
        return
    modules = [
        (name, own, place_of(name), run_model.grid_at(name, run.settings), int(getattr(module, "heads", 0)))
        for name, module in run_model.modules.items()
        if (kind := run_model.attention_kind(module)) is not None
        for own in kinds_of(module, kind)
    ]
    layout = run_model.layout(run.settings)
    steps = [call for step in run_model.expected_steps(run) for call in _calls(run_model, step)]
    lengths = {role: max(map(run_model.text_tokens, prompts)) for role, prompts in _prompts(steps).items()}
    parts = {
        (role, kind, grid): _parts(layout, kind, grid, texts)
        for role, texts in lengths.items()
        for _, kind, _, grid, _ in modules
    }
    for hook, inner in asking:
        asked = [own for own in modules if asks(hook, *own[:2])]
        sites = [
            Site(name, kind, place, grid, heads, step, image, text, reference=reference)
            for step in steps
            for name, kind, place, grid, heads in asked
            for image, text, reference in (parts[step.roles, kind, grid],)
        ]
        acting = [site for site in sites if hook.may_act_at(site)] if isinstance(hook, LimitedHook) else sites
        called(inner, "expect_sites", acting)


def _calls(run_model: Any, step: Step) -> list[Step]:
    """Return an expected step as each of the denoiser's calls in it has it: with all rows, or those of one role."""
    if not run_model.separate_calls:
        return [step]
    found = []
    for role in step.roles:
        found.append(copy.copy(step))
        object.__setattr__(found[-1], "rows", tuple(row for row in step.rows if row.role == role))
    return found


def _prompts(steps: Sequence[Step]) -> dict[tuple[Role, ...], list[Prompt]]:
    """Return the prompts of the rows of each kind of call, by the roles of these rows."""
    return {step.roles: [row.prompt for row in step.rows] for step in steps}


def _parts(layout: Layout, kind: str, grid: Grid | None, texts: int) -> tuple[slice, slice | None, slice | None]:
    """The positions of image, text and reference at a site of this grid; of an unknown one, those of the text alone."""
    places = 0 if grid is None else prod(grid) + layout.beside
    keys = {"cross": texts, "joint": places + texts}.get(kind, places)
    _, image, text = layout.of(kind, places, keys)
    return image, text, layout.reference_after(image)
