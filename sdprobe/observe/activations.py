"""`Activations`: keep the activations of any modules, in memory or in a folder with one file for each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey
from sdprobe.core.hook import patterns
from sdprobe.core.limits.limited_hook import Limit, Rows, Steps
from sdprobe.core.limits.row_subset import entries_of
from sdprobe.core.rows import as_slice
from sdprobe.core.site import Site
from sdprobe.core.torch_names import dtype_of
from sdprobe.observe.activation_selection import Reduce, at_tokens, form_of, reduced
from sdprobe.observe.record_of_steps import RecordOfSteps

SIDES = ("output", "input")


class Activations(RecordOfSteps):
    """Keep what modules give or take: of chosen steps and rows, whole or reduced, in CPU memory or on disk.

    >>> import sdprobe
    >>> activations = sdprobe.Activations("mid_block", rows="cond")
    >>> settings = {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[activations], **settings)
    >>> run[activations]["mid_block"].shape, run[activations].axes("mid_block")
    (torch.Size([4, 1, 96, 4, 4]), ('steps', 'rows', 'channels', 'h', 'w'))
    >>> flat = run[activations].flat("mid_block")
    >>> flat, [int(flat.table[name][-1]) for name in ("picture", "step", "y", "x")]
    (FlatActivations(64 vectors of width 96), [0, 3, 3, 3])

    Args:
        modules: fnmatch patterns on dotted module names, such as ``"up_blocks.*.attn2"``.
        streams: patterns on the streams of modules with several tensors (`Site.stream`); None for all.
        sides: ``"output"`` for what the modules give, ``"input"`` for what they take, or both.
        steps: step numbers (``range(10)``, ``{0, 5}``, ``5``), or a function of the `Step` that returns True or False;
            None for all.
        rows: a role (``"cond"``), image numbers (``[0, 2]``), or a function of the `Row`; None for all.
        reduce: ``"mean"`` or ``"max"`` over all positions of a tensor, which leaves ``[rows, width]``; or a function of
            the chosen rows of the tensor and the `Site`, which returns a tensor of the same rows. None keeps all.
        tokens: words of the prompt, or positions of its tokens: keep only these of the text's positions. They are
            looked up in the prompt of each row.
        dtype: the dtype to store, or its name; None keeps the tensor's own.
        to: a folder to write every step to when it is complete, keeping none in memory. None keeps all in memory.

    Attributes:
        record: (in a run) the `ActivationRecord`.

    Index the run's copy with a module's name for ``[steps, rows, ...]``; ``at`` returns one step, ``flat`` all vectors
    with a table of what they are, ``axes`` the names of the axes.

    A folder is read without the run by ``ActivationRecord.open(folder)``. A run that is started again with the folder
    of an interrupted one, or continued by `sdprobe.resume`, goes on: the steps that it makes replace those that are
    there, and all others stay. A folder of another model, prompt, seed, setting or argument is refused. Functions are
    compared by name; weights, and latents or images that a run started from, are not compared. The limits of `only` are
    compared as the arguments are.

    Raises:
        TypeError: for steps or rows that are neither numbers nor a function.
        ValueError: for an unknown side, role, dtype or way to reduce. In a run: for rows that the run does not have; a
            folder that holds something else, or that another hook of the run writes to; a tensor that has not one entry
            for each row; tokens that are not equally many in all rows; and steps for a module outside of the steps.
        KeyError: for a name alone of which several tensors were kept: those of several sides, streams or calls. A
            module that runs several times in a step has a key for each ``call``.
    """

    described = ("modules", "streams", "sides", "steps", "rows", "reduce", "tokens", "dtype")

    def __init__(
        self,
        modules: str | Sequence[str],
        *,
        streams: str | Sequence[str] | None = None,
        sides: str | Sequence[str] = ("output",),
        steps: int | Steps | None = None,
        rows: Rows | None = None,
        reduce: Reduce | None = None,
        tokens: str | int | Sequence[str | int] | None = None,
        dtype: torch.dtype | str | None = None,
        to: str | Path | None = None,
    ) -> None:
        self.modules, self.streams, self.sides = patterns(modules), patterns(streams), patterns(sides) or ()
        if not self.sides or (unknown := [side for side in self.sides if side not in SIDES]):
            raise ValueError(
                f"sides are {' or '.join(map(repr, SIDES))}, or both, not {unknown if self.sides else sides}"
            )
        if not (reduce is None or callable(reduce) or reduce in ("mean", "max")):
            raise ValueError(f"reduce is 'mean', 'max' or a function of the tensor and the Site, not {reduce!r}")
        self._limit = Limit.of(steps=steps, rows=rows)
        self.steps, self.rows, self.reduce, self.tokens, self.to = steps, rows, reduce, tokens, to
        self.dtype = None if dtype is None else dtype_of(dtype)

    def activation(self, x: Tensor, site: Site) -> None:
        key = ActivationKey.of(site)
        self._passed[key] = None
        if not self._limit.includes_step_of(site):
            return
        if len(x) != len(site.rows):
            raise ValueError(
                f"{site.name} passes a tensor {list(x.shape)} ({site.side}, {site.stream}), which has not one entry "
                f"for each of the {len(site.rows)} rows: choose modules without it, or other streams by streams="
            )
        entries = entries_of(site, self._limit.includes_row)
        if not entries:
            return
        rows = [site.rows[i] for i in entries]
        x = x[as_slice(entries)]
        form = form_of(x, site, rows)
        if self.tokens is not None:
            x, form = at_tokens(x, form, site, rows, self.tokens)
        x, form = reduced(x, form, site, self.reduce)
        self._keep(key, x, form, site)
