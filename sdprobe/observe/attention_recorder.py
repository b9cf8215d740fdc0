"""`AttentionRecorder`: keep whole attention probabilities of each step, in memory or in a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from sdprobe.core.activations.form import ActivationForm, ActivationKey, RowLabel
from sdprobe.core.attention import Attention
from sdprobe.core.hook import patterns
from sdprobe.core.limits.limited_hook import Limit, Rows, Steps
from sdprobe.core.limits.row_subset import number_in_whole
from sdprobe.core.possible_grids import Grid, as_grids, possible_grids
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.torch_names import dtype_of
from sdprobe.core.written_prompt import write_prompt
from sdprobe.observe.record_of_steps import RecordOfSteps

Columns = Literal["text", "image"]
COLUMNS: Mapping[str, tuple[Columns, ...]] = {"cross": ("text",), "self": ("image",), "joint": ("text", "image")}
"""What the places of the picture look at in each kind of attention."""


class AttentionRecorder(RecordOfSteps):
    """Keep the attention probabilities of the picture's places: of every head, step and site, not summed.

    This is what another run can take its attention from (`ReplaceAttention`, `RefineAttention`, `InjectSelfAttention`).
    To look at attention, `AttentionMaps` and `AttentionMatrices` are far smaller.

    >>> import sdprobe
    >>> recorder = sdprobe.AttentionRecorder("down_blocks.1.*")
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[recorder], steps=3, seed=0, progress=False)
    >>> (key,) = run[recorder].record.keys
    >>> key
    ActivationKey(name='down_blocks.1.attentions.0.transformer_blocks.0.attn2', side='output', stream='text', call=0)
    >>> run[recorder][key].shape, run[recorder].axes(key)
    (torch.Size([3, 1, 4, 64, 32]), ('steps', 'rows', 'heads', 'queries', 'keys'))

    A step is moved to the CPU, or written to a file, when it is complete. In Stable Diffusion XL at 1024 × 1024, one
    row of one step has 60 cross-attention sites of 20 heads × 1024 places and 10 of 10 heads × 4096 places, to 77
    tokens each: 1.26e8 numbers, 505 MB, or 252 MB with ``dtype="float16"``; 50 steps take 25 GB, or 12.6 GB. The
    self-attention of its 60 sites of 1024 places takes 5 GB a step, and that of the 10 of 4096 places 6.7 GB more:
    limit it by ``grids``, ``steps`` and ``modules``, and give it a folder.

    Args:
        modules: fnmatch patterns on dotted module names; None for all attention.
        kinds: kinds of attention: ``"cross"``, ``"self"``, ``"joint"``.
        columns: what is looked at: ``"text"``, ``"image"`` or both. None is the text in cross- and joint attention,
            and the picture in self-attention.
        grids: only sites of these grids, ``(h, w)`` or a number for a square one; None for all.
        rows: a role (``"cond"``), image numbers (``[0, 2]``), or a function of the `Row`; None for all.
        steps: step numbers (``range(10)``, ``{0, 5}``, ``5``), or a function of the `Step` that returns True or False;
            None for all.
        dtype: the dtype to store, or its name; None keeps float32, in which probabilities are computed.
        to: a folder to write every step to when it is complete, keeping none in memory. None keeps all in memory.

    Attributes:
        record: (in a run) the `ActivationRecord`. The stream of a tensor's key is ``"text"`` or ``"image"``. Its
            description has how each prompt was read, as ``"readings"``.

    Index the run's copy with a key or a module's name for ``[steps, rows, heads, queries, keys]``; ``at`` returns one
    step. A folder is read without the run by ``ActivationRecord.open(folder)``, and goes on as that of `Activations`.

    Raises:
        TypeError: for steps or rows that are neither numbers nor a function.
        ValueError: for an unknown kind, column, role or dtype, and for kinds that have none of the columns. In a run:
            for rows and grids that it does not have, and for a folder that holds something else.
    """

    described = ("modules", "kinds", "columns", "grids", "steps", "rows", "dtype")

    def __init__(
        self,
        modules: str | Sequence[str] | None = None,
        *,
        kinds: str | Sequence[str] = ("cross", "joint"),
        columns: Columns | Sequence[Columns] | None = None,
        grids: Collection[int | Grid] | None = None,
        rows: Rows | None = "cond",
        steps: int | Steps | None = None,
        dtype: torch.dtype | str | None = None,
        to: str | Path | None = None,
    ) -> None:
        self.modules, self.kinds, self.columns = patterns(modules), patterns(kinds) or (), patterns(columns)
        if not self.kinds or (unknown := [kind for kind in self.kinds if kind not in COLUMNS]):
            raise ValueError(
                f"kinds are among {', '.join(map(repr, COLUMNS))}, not {unknown if self.kinds else kinds!r}"
            )
        if self.columns is not None and (unknown := [own for own in self.columns if own not in get_args(Columns)]):
            raise ValueError(f"columns are 'text', 'image' or both, not {unknown}")
        if not any(map(self._columns_of, self.kinds)):
            raise ValueError(f"there is nothing to keep: {' and '.join(self.kinds)} attention has no columns {columns}")
        self._limit = Limit.of(steps=steps, rows=rows)
        self.grids, self.rows, self.steps, self.to = as_grids(grids), rows, steps, to
        self.dtype = None if dtype is None else dtype_of(dtype)

    def start(self, run: Run) -> None:
        if self.grids is not None:
            possible_grids(run, self.grids)  # raises an error for grids that there are not
        super().start(run)

    def attention(self, attn: Attention, site: Site) -> None:
        if not self._limit.includes_step(site.step) or (self.grids is not None and site.grid not in self.grids):
            return
        entries = [k for k, row in enumerate(attn.rows) if self._limit.includes_row(row)]
        if not entries:
            return  # a pipeline may call its denoiser for each role separately
        run, rows = site.run, [attn.rows[k] for k in entries]
        labels = tuple(RowLabel(number_in_whole(run, row.image), row.role, row.prompt.text) for row in rows)
        form = ActivationForm(("rows", "heads", "queries", "keys"), labels, site.grid)
        for name in self._columns_of(site.kind):
            key = ActivationKey(ActivationKey.of(site).name, "output", name, site.call)
            self._passed[key] = None
            looked_at = site.text if name == "text" else site.image
            self._keep(key, attn.probs(rows=entries, queries=site.image, tokens=looked_at), form, site)

    def _columns_of(self, kind: str) -> tuple[Columns, ...]:
        there = COLUMNS.get(kind, ())
        return there[:1] if self.columns is None else tuple(own for own in there if own in self.columns)

    def _description(self, run: Run) -> Mapping[str, Any]:
        readings = {prompt.text: write_prompt(prompt) for prompt in (*run.negative_prompts, *run.prompts)}
        return {**super()._description(run), "holds": "attention", "readings": readings}
