"""The sums of `AttentionMaps` as labelled arrays of mean probabilities: one for each grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.grid import Grid, named_grid
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role
from sdprobe.core.torch_names import name_of
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.attention_sums import Key
from sdprobe.runs.export.labelled_array import Coordinate, LabelledArray, along

Shown = tuple[Role, int]
"""A role, and the number of the prompts that its rows were shown."""


def attention_arrays(hook: AttentionMaps, images: Mapping[str, Coordinate]) -> Iterator[LabelledArray]:
    """Return mean probabilities, with a dimension for all that was kept apart.

    The dimensions of the largest grid are ``layer``, ``head``, ``y`` and ``x``; those of others have the grid's name.
    Before ``y`` there is ``frame`` in a video: its latent frames.

    Args:
        hook: a run's copy.
        images: the coordinate of the dimension ``"image"``.
    """
    by_grid: dict[Grid, dict[Shown, list[Key]]] = {}
    for key in hook.sums:
        by_grid.setdefault(key.grid, {}).setdefault((key.role, key.reading), []).append(key)
    largest = max(by_grid, key=math.prod, default=None)
    for grid in sorted(by_grid, key=math.prod, reverse=True):
        scope = "" if grid == largest else f"_{named_grid(grid)}"
        for number, shown in enumerate(_in_turn(by_grid[grid])):
            parts = {each: _Part(hook, by_grid[grid][each]) for each in shown}
            alike = len({part.form for part in parts.values()}) == 1
            for together in [parts] if alike else [{each: part} for each, part in parts.items()]:
                alone = "" if len(together) > 1 or len(hook.roles) == 1 else f"_{next(iter(together))[0]}"
                name = f"attention_{named_grid(grid)}{alone}" + f"_prompt_{number + 1}" * bool(number)
                yield _array(hook, name, grid, scope, together, images)


def _in_turn(keys: Mapping[Shown, Sequence[Key]]) -> list[list[Shown]]:
    """Return what the rows of each role were shown first, then what they were shown second, and so on."""
    turns: list[list[Shown]] = []
    for role, reading in keys:
        turn = sum((role, other) in keys for other in range(reading))
        turns += [[] for _ in range(turn + 1 - len(turns))]
        turns[turn].append((role, reading))
    return turns


class _Part:
    """The sums of one grid, of rows of one role that were shown the same prompts.

    Attributes:
        cells: the sums that belong together, by step and layer; None where that was not kept apart on request.
    """

    def __init__(self, hook: AttentionMaps, keys: Sequence[Key]) -> None:
        self.cells: dict[tuple[int | None, str | None], list[Key]] = {}
        for key in keys:
            layer = key.layer if "layer" in hook.sums.keep else None
            self.cells.setdefault((key.step, layer), []).append(key)
        self.steps = tuple(dict.fromkeys(step for step, _ in self.cells))
        self.layers = tuple(dict.fromkeys(layer for _, layer in self.cells))
        totals = [hook.sums[key] for key in keys]
        self.heads = max(total.shape[1] for total in totals) if "head" in hook.sums.keep else 1
        self.images, self.tokens = totals[0].shape[0], totals[0].shape[-1]
        columns = hook.readings.columns[keys[0].reading]
        self.columns = tuple(range(self.tokens) if columns is None else columns)

    @property
    def form(self) -> tuple[Any, ...]:
        """What has to be the same in parts that are put into one array."""
        return self.steps, self.layers, self.heads, self.images, self.columns


def _array(
    hook: AttentionMaps,
    name: str,
    grid: Grid,
    scope: str,
    parts: Mapping[Shown, _Part],
    images: Mapping[str, Coordinate],
) -> LabelledArray:
    part, kept = next(iter(parts.values())), hook.sums.keep
    form = (part.images, len(parts), len(part.steps), len(part.layers), part.heads, part.tokens, math.prod(grid))
    whole = torch.empty(form)
    calls, missing = 0, 0
    for r, own in enumerate(parts.values()):
        for s, step in enumerate(own.steps):
            for k, layer in enumerate(own.layers):
                keys = own.cells.get((step, layer), [])
                calls, missing = calls + sum(hook.sums.counts[key] for key in keys), missing + (not keys)
                _write_mean(whole[:, r, s, k], hook, keys)
    dims = {
        "image": True,
        "role": len(parts) > 1,
        "step": "step" in kept,
        f"layer{scope}": "layer" in kept,
        f"head{scope}": "head" in kept,
        "token": True,
        **{f"{axis}{scope}": True for axis in ("frame", "y", "x")[-len(grid) :]},
    }
    values = whole.numpy().reshape(*form[:-1], *grid)
    summed = tuple(axis for axis, there in enumerate(dims.values()) if not there)
    there = tuple(dim for dim, is_there in dims.items() if is_there)
    roles = [role for role, _ in parts]
    numbers = ((), roles, part.steps, part.layers, range(part.heads), part.columns, *map(range, grid))
    every = dict(zip(dims, numbers, strict=True))
    coords = dict(images)
    for dim in there[1:]:
        coords |= along(dim, every[dim])
    texts = np.array(
        [[[spelt(p, c) for c in part.columns] for p in hook.readings.prompts[reading]] for _, reading in parts]
    ).swapaxes(0, 1)  # [images, roles, tokens]
    over = tuple(dim for dim in there if dim in ("image", "role", "token"))
    coords["token_text"] = (over, texts if "role" in over else texts[:, 0])
    attrs: dict[str, Any] = {
        "long_name": "mean probability of the attention of a place of the image to a token",
        "units": "probability",
        "role": roles,
        "averaged_over": [what for what in ("step", "layer", "head") if what not in kept],
        "calls": calls,
        "kept_as": name_of(hook.dtype),
    }
    if layers := list(dict.fromkeys(key.layer for keys in part.cells.values() for key in keys if key.layer)):
        attrs["layers"] = layers
    if missing:
        attrs["missing"] = f"{missing} pairs of a step and a layer were not recorded, and are NaN"
    return LabelledArray(name, there, values.squeeze(summed), coords, attrs)


def spelt(prompt: Prompt, column: int) -> str:
    """The token of a column; a denoiser may pad the tokens of a prompt by more of its own."""
    return prompt.spelt(column) if column < len(prompt.ids) else "<pad>"


def _write_mean(into: Float[Tensor, "images heads tokens places"], hook: AttentionMaps, keys: Sequence[Key]) -> None:
    """Write the mean of the sums, each for the heads that it has; NaN where there are none."""
    totals = [hook.sums[key] for key in keys]
    if "head" not in hook.sums.keep:
        totals = [total.mean(1, dtype=torch.float32, keepdim=True) for total in totals]
    counts = [hook.sums.counts[key] for key in keys]
    if len(keys) == 1 and totals[0].shape[1] == into.shape[1]:  # most often: the numbers are passed once
        torch.div(totals[0].mT.to(into), counts[0], out=into)
        return
    of_head = torch.zeros(into.shape[1], 1, 1)
    into.zero_()
    for total, count in zip(totals, counts, strict=True):
        into[:, : total.shape[1]] += total.mT.to(into)
        of_head[: total.shape[1]] += count
    into /= of_head
