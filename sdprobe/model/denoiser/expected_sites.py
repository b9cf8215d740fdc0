"""Tell hooks, before the first step, at which attention sites they will be called."""

from __future__ import annotations

import copy
from math import prod
from typing import Any

from sdprobe.core.call_hook import called
from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Observer, asks, overrides
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.run import Row, Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.model.denoiser.image_prompts import kinds_of
from sdprobe.model.denoiser.missed_attention import is_linear
from sdprobe.model.denoiser.module_hooks import place_of
from sdprobe.model.denoiser.token_layout import Grid, Layout
from sdprobe.model.denoiser.token_places import heads_of_queries


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
        (
            *(name, own, place_of(name)),
            None if own == "text" else run_model.grid_at(name, run.settings),
            heads_of_queries(module),
        )
        for name, module in run_model.modules.items()
        if (kind := run_model.attention_kind(module)) is not None and not is_linear(module)
        for own in kinds_of(module, kind)
    ]
    layout, steps = run_model.layout(run.settings), run_model.expected_steps(run)
    calls = [(_of_rows(step, rows), _texts(run_model, rows)) for step in steps for rows in run_model.rows_by_call(step)]
    parts = {
        (kind, grid, texts): _parts(layout, kind, grid, texts)
        for texts in {own for _, own in calls}
        for _, kind, _, grid, _ in modules
    }
    for hook, inner in asking:
        asked = [own for own in modules if asks(hook, *own[:2])]
        sites = [
            Site(
                name,
                kind,
                place,
                grid,
                heads,
                call,
                *parts[kind, grid, texts][:2],
                reference=parts[kind, grid, texts][2],
            )
            for call, texts in calls
            for name, kind, place, grid, heads in asked
            if run_model.runs_at(name, call.timestep)
        ]
        acting = [site for site in sites if hook.may_act_at(site)] if isinstance(hook, LimitedHook) else sites
        called(inner, "expect_sites", acting)


def _parts(layout: Layout, kind: str, grid: Grid | None, texts: int) -> tuple[slice, slice | None, slice | None]:
    """The positions of image, text and reference at a site of this grid; of an unknown one, those of the text alone."""
    places = 0 if grid is None else prod(grid) + layout.beside
    keys = {"cross": texts, "text": texts, "joint": places + layout.registers + texts}.get(kind, places)
    _, image, text = layout.of(kind, places, keys)
    return image, text, layout.reference_after(image)


def _of_rows(step: Step, rows: tuple[Row, ...]) -> Step:
    """An expected step with other rows."""
    call = copy.copy(step)
    object.__setattr__(call, "rows", rows)
    return call


def _texts(run_model: Any, rows: tuple[Row, ...]) -> int:
    """The number of tokens of text in a call of the denoiser: that of the longest of its prompts."""
    prompts = {id(row.prompt): row.prompt for row in rows}.values()
    return max(int(run_model.text_tokens(prompt)) for prompt in prompts)
