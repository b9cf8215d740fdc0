"""`AttentionShares`: where attention goes by the role of the token: start, words, end, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.data_frame import data_frame
from sdprobe.core.module_names import short_name
from sdprobe.core.prompt import TokenRole
from sdprobe.core.run import Role
from sdprobe.core.short_repr import short_repr
from sdprobe.observe.attention_sums import AttentionSums, Key
from sdprobe.observe.prompt_readings import PromptReadings
from sdprobe.plot.figures import HEAT, INCH
from sdprobe.plot.printable import printable
from sdprobe.plot.table import as_html, as_text

ROLES: tuple[str, ...] = get_args(TokenRole)
EMPTY, IMAGE = "empty", "image"
SHOWN = 24  # rows that a notebook prints


@dataclass(frozen=True, eq=False)
class AttentionShares:
    """The shares of the image's attention that go to the start token, the words, the end token and padding.

    S_r = mean over places p and heads h of Σ over tokens k of the role r of softmax(Q Kᵀ / √d)[h, p, k]

    In cross-attention the shares of a row add up to 1. In joint attention the rest goes to the image, and is shown as
    ``"image"``. ``"empty"`` are positions that no text encoder fills, where there are any: Stable Diffusion 3 without
    T5 has zeros in the place of its tokens, and places look at these too.

    >>> import torch
    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps(keep="step")
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=2, seed=0, progress=False)
    >>> shares = run[maps].shares()
    >>> shares
    layer  step  start  word   end    pad
    all       0  0.038  0.274  0.021  0.668
    all       1  0.054  0.251  0.017  0.678
    >>> torch.allclose(shares.values.sum(-1), torch.ones(2))
    True
    >>> shares.mean()["start"] == shares.of("start").mean().item()
    True

    Args:
        values: ``[rows, roles]``.
        layers: the layer of each row; None for all together.
        steps: the step of each row; None for all together.
        calls: the number of calls of which each row is the mean; by these the rows are weighted in `mean`.
        roles: what each column is: ``"start"``, ``"word"``, ``"end"``, ``"pad"``; then ``"empty"`` and ``"image"``, if
            there are any.
    """

    values: Float[Tensor, "rows roles"]
    layers: tuple[str | None, ...]
    steps: tuple[int | None, ...]
    calls: tuple[int, ...]
    roles: tuple[str, ...] = field(default=ROLES)

    def of(
        self, role: str, layer: str | None = None, steps: int | Sequence[int] | None = None
    ) -> Float[Tensor, " rows"]:
        """Return the share of a role in each row.

        Args:
            role: one of `roles`.
            layer: rows of this layer only.
            steps: rows of this step, or of these, such as ``range(5)``.

        Raises:
            KeyError: for another role.
            ValueError: if there are no such rows.
        """
        if role not in self.roles:
            raise KeyError(f"{role!r} is no role of a token here; the roles: {', '.join(self.roles)}")
        return self.values[self._rows(layer, steps), self.roles.index(role)]

    def mean(self, layer: str | None = None, steps: int | Sequence[int] | None = None) -> dict[str, float]:
        """Return the share of each role over all calls, or over those of a layer or of steps, as for `of`."""
        rows = self._rows(layer, steps)
        calls = torch.tensor([self.calls[row] for row in rows], dtype=torch.float64)
        means = (self.values[rows].double() * calls[:, None]).sum(0) / calls.sum()
        return dict(zip(self.roles, means.tolist(), strict=True))

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each layer and step, and a column for each role.

        Raises ImportError if pandas is not installed.
        """
        shares = dict(zip(self.roles, self.values.T.numpy(), strict=True))
        return data_frame({"layer": self.layers, "step": self.steps, "calls": self.calls, **shares})

    def plot(self) -> Figure:
        """Plot a panel for each role: layers down, steps across.

        The colours are the same in all panels, and follow the square root of the share, so that small ones can be seen.
        """
        layers, steps = list(dict.fromkeys(self.layers)), list(dict.fromkeys(self.steps))
        panels = [role for role in self.roles if bool((self.of(role) > 0).any())]
        grid = np.full((len(self.roles), len(layers), len(steps)), np.nan)
        for row, (layer, step) in enumerate(zip(self.layers, self.steps, strict=True)):
            grid[:, layers.index(layer), steps.index(step)] = self.values[row].numpy()
        size = (1.4 * INCH * len(panels) + 1.4, max(1.5, 0.16 * len(layers)) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, role in zip(axes, panels, strict=True):
            shown = grid[self.roles.index(role)]
            image = ax.imshow(shown, cmap=HEAT, norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
            ax.set_title(f"{role}: {self.mean()[role]:.2f}", fontsize=9)
            every = -(-len(steps) // 6)
            ax.set_xticks(range(0, len(steps), every))
            ax.set_xticklabels(["all" if step is None else str(step) for step in steps[::every]], fontsize=7)
            ax.set_xlabel("step", fontsize=8)
        every = -(-len(layers) // 40)
        axes[0].set_yticks(range(0, len(layers), every))
        axes[0].set_yticklabels([_said(layer) for layer in layers[::every]], fontsize=7)
        bar = figure.colorbar(image, ax=list(axes), shrink=0.9, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
        bar.set_label("share of attention", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.ax.set_yticklabels(["0", ".01", ".05", ".1", ".25", ".5", "1"])
        return figure

    def _rows(self, layer: str | None, steps: int | Sequence[int] | None) -> list[int]:
        wanted = None if steps is None else [steps] if isinstance(steps, int) else list(steps)
        rows = [
            row
            for row, (its, step) in enumerate(zip(self.layers, self.steps, strict=True))
            if layer in (None, its) and (wanted is None or step in wanted)
        ]
        if not rows:
            layers, those = (short_repr(list(dict.fromkeys(own))) for own in (self.layers, self.steps))
            raise ValueError(
                f"there are no shares of layer {layer}, steps {short_repr(wanted)}; recorded: the layers {layers}, the "
                f"steps {those}"
            )
        return rows

    def _table(self, most: int | None = None) -> list[list[str]]:
        rows = range(len(self.layers))[:most]
        body = [
            [_said(self.layers[row]), "all" if self.steps[row] is None else str(self.steps[row])]
            + [f"{share:.3f}" for share in self.values[row].tolist()]
            for row in rows
        ]
        return [["layer", "step", *self.roles], *body]

    def __repr__(self) -> str:
        return "\n".join(as_text(self._table(), align=_aligned))

    def _repr_html_(self) -> str:
        more = f", of which {SHOWN} are shown" * (len(self.layers) > SHOWN)
        return as_html(self._table(SHOWN), f"shares of attention, {len(self.layers)} rows{more}")


def shares_of(sums: AttentionSums, readings: PromptReadings, image: int, role: Role, joint: bool) -> AttentionShares:
    """Return the shares of recorded attention, a row for each layer and step that were kept apart.

    Args:
        sums: the recording, of every token.
        readings: the prompts that it is of.
        image: the image number.
        role: the role of the rows.
        joint: whether attention was joint, so that the rest goes to the image.

    Raises ValueError where the prompt is not known, for a pipeline was given its embeddings.
    """
    groups: dict[tuple[str | None, int | None], list[Key]] = {}
    for key in sums.matching(role):
        layer, step = (own if name in sums.keep else None for name, own in (("layer", key.layer), ("step", key.step)))
        groups.setdefault((layer, step), []).append(key)  # type: ignore[arg-type]
    values, calls = [], []
    for keys in groups.values():
        total = torch.zeros(len(ROLES) + 1)
        for key in keys:
            tokens = sums[key][image].float().mean((0, 1)).cpu()
            roles = readings.prompts[key.reading][image].roles
            if not roles:
                raise ValueError(
                    "the pipeline was given prompt_embeds instead of a text, so which tokens are words or padding is "
                    "not known: give it the text"
                )
            empty = len(tokens) - len(roles)
            of = [*map(ROLES.index, roles), *[len(ROLES)] * empty]
            total.index_add_(0, torch.tensor(of), tokens)
        calls.append(sum(sums.counts[key] for key in keys))
        values.append(total / calls[-1])
    found = torch.stack(values)
    names = [*ROLES, EMPTY]
    if joint:
        found, names = torch.cat([found, 1 - found.sum(-1, keepdim=True)], dim=-1), [*names, IMAGE]
    if not found[:, len(ROLES)].any():
        found, names = found[:, [i for i in range(len(names)) if names[i] != EMPTY]], [n for n in names if n != EMPTY]
    layers, steps = zip(*groups, strict=True)
    return AttentionShares(found, layers, steps, tuple(calls), tuple(names))


def _said(layer: str | None) -> str:
    return "all" if layer is None else printable(short_name(layer))


def _aligned(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() and len(cell) <= 6 else cell.ljust(width)
