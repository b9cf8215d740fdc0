"""`Activations`: keep the activations of any modules, in memory or in a folder with one file for each step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.flat import FlatActivations
from sdprobe.core.activations.folder import ActivationFolder
from sdprobe.core.activations.form import ActivationForm, read_name, written_name
from sdprobe.core.activations.record import ActivationKey, ActivationRecord, HeldActivations, Kept, said_of
from sdprobe.core.activations.restored import RestoredActivations, records_of_activations
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.function_hooks import name_of
from sdprobe.core.hook import Observer, patterns
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.limits.limited_hook import Limit, LimitedHook, NamedLimit, Rows, Steps
from sdprobe.core.limits.row_subset import entries_of, number_in_whole, rows_of_run
from sdprobe.core.rows import as_slice
from sdprobe.core.run import Run, Step
from sdprobe.core.site import Site
from sdprobe.core.torch_names import dtype_of
from sdprobe.core.torch_names import name_of as dtype_name
from sdprobe.observe.activation_selection import Reduce, at_tokens, form_of, reduced

SIDES = ("output", "input")
DESCRIBED = ("modules", "streams", "sides", "steps", "rows", "reduce", "tokens", "dtype")


class Activations(Observer):
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

    def start(self, run: Run) -> None:
        every = rows_of_run(run)
        if not any(map(self._limit.includes_row, every)):
            raise ValueError(
                f"{self!r} would keep nothing: its rows are none of this run's {run.settings.images} images, counted "
                f"from 0, with the roles {', '.join(dict.fromkeys(row.role for row in every))}"
            )
        described = self._description(run)
        if self.to is not None and any(_folder(own) == _folder(self) for _, own in run.records if own is not self):
            raise ValueError(f"two hooks of this run write to {str(self.to)!r}: give each a folder of its own")
        if self.to is not None and run.settings.seed is None and (Path(self.to) / "record.json").exists():
            raise ValueError(
                f"{str(self.to)!r} holds a record, and whether this run is the same cannot be told, since its noise "
                f"came from no seed that is known: give it a folder of its own, or the pipeline a new generator"
            )
        self.record: ActivationRecord = (
            HeldActivations(described) if self.to is None else ActivationFolder.begun(self.to, described)
        )
        self._of_step: dict[ActivationKey, list[Kept]] = {}
        self._outside: dict[ActivationKey, list[Kept]] = {}
        self._outside_written = 0
        self._ended: list[int] = []
        self._passed: dict[ActivationKey, None] = {}

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
        form.check(tuple(x.shape))
        before = (self._outside if site.index is None else self._of_step).setdefault(key, [])
        if any(set(own.form.rows) & set(form.rows) for own in before):
            raise ValueError(
                f"{site.name} runs several times in {said_of(site.index)} for the same rows, and one tensor of each is "
                f"kept: choose modules without it, such as the one that it is a part of"
            )
        before.append(Kept(CpuCopy(x, self.dtype), form))

    def noise_pred(self, x: Tensor, step: Step) -> None:
        # The end of a step: where a pipeline calls its denoiser twice, model_output passes twice.
        self._write_outside()
        if self._of_step:
            self.record.write(step.index, {key: _joined(key, parts) for key, parts in self._of_step.items()})
            self._of_step = {}
        self._ended.append(step.index)

    def finish(self, run: Run) -> None:
        self._write_outside()
        self._of_step, self._outside = {}, {}  # a step that did not come to its end is not kept
        self.record.finish()
        if self._ended and not self.record.indices:
            warnings.warn(self._nothing(), stacklevel=2)

    def records(self) -> HookRecords:
        own = records_of_activations(self.record)
        passed = [*map(written_name, self._passed)]
        return replace(own, values={**own.values, "steps_ended": self._ended, "passed": passed})

    def restore(self, records: HookRecords, run: Run) -> None:
        self.record = RestoredActivations(records)
        self._ended = list(records.values["steps_ended"])
        self._passed = dict.fromkeys(map(read_name, records.values["passed"]))

    @property
    def indices(self) -> list[int | None]:
        """The numbers of the steps kept; last, None, if something outside of the steps was kept."""
        return self.record.indices

    def at(self, index: int | None, name: str | ActivationKey) -> Shaped[Tensor, "rows ..."]:
        """Return one tensor of one step. Raises KeyError if it was not kept."""
        self._refuse_nothing()
        return self.record.at(index, name)

    def axes(self, name: str | ActivationKey) -> tuple[str, ...]:
        """Return the names of the axes of ``run[activations][name]``. Raises KeyError if it was not kept."""
        self._refuse_nothing()
        return self.record.axes_of(name)

    def flat(
        self, name: str | ActivationKey, *, stream: str | None = None, side: str | None = None, call: int | None = None
    ) -> FlatActivations:
        """Return all vectors of a module, with a table of the picture, row, step and place of each (`FlatActivations`).

        Raises KeyError, with the choices, if none fits or several do.
        """
        self._refuse_nothing()
        return self.record.flat(name, stream=stream, side=side, call=call)

    def __getitem__(self, name: str | ActivationKey) -> Shaped[Tensor, "steps rows ..."]:
        self._refuse_nothing()
        return self.record[name]

    def _write_outside(self) -> None:
        count = sum(map(len, self._outside.values()))
        if count > self._outside_written:  # after the text encoders, and again after the autoencoder
            self._outside_written = count  # first, so that after an error `finish` does not raise it again
            self.record.write(None, {key: _joined(key, parts) for key, parts in self._outside.items()})

    def _refuse_nothing(self) -> None:
        if not self.record.indices:
            raise KeyError(self._nothing())

    def _nothing(self) -> str:
        """Say that nothing was kept, and what would have been there."""
        passed = ", ".join(map(str, list(self._passed)[:6])) or "nothing that its modules, streams and sides fit"
        steps = f"steps {self._ended[0]} to {self._ended[-1]}" if self._ended else "no whole step"
        return f"{self!r} kept nothing: the run had {steps}, and passed {passed}"

    def _description(self, run: Run) -> Mapping[str, Any]:
        own: dict[str, Any] = {name: _plain(getattr(self, name)) for name in DESCRIBED} | self._limits(run)
        return own | {"model": run.model_name} | {name: _plain(value) for name, value in asdict(run.settings).items()}

    def _limits(self, run: Run) -> dict[str, Any]:
        """Return what `only` leaves of a run: the rows chosen of the whole run, and limits of the steps and sites."""
        around = [own for _, own in run.records if isinstance(own, LimitedHook) and own.inner is self]
        chosen = [
            (number, row.role)
            for row in rows_of_run(run)
            for number in [number_in_whole(run, row.image)]
            if self._limit.includes_row(row) and all(own.includes_row(replace(row, image=number)) for own in around)
        ]
        others = [(limit.steps, limit.sites) for own in around for limit in own.limits]
        return {"chosen": _plain(chosen), "only": _plain([own for own in others if own != (None, None)])}


def _folder(hook: object) -> Path | None:
    """Return the folder that an `Activations` writes to."""
    return Path(hook.to).resolve() if isinstance(hook, Activations) and hook.to is not None else None


def _joined(key: ActivationKey, parts: list[Kept]) -> Kept:
    """Return the rows of several calls together: prompts and negative prompts are encoded one after the other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0].form
    if len({part.copy.value.shape[1:] for part in parts}) > 1:
        sizes = ", ".join(f"{list(part.copy.value.shape)} of {part.form.rows[0].prompt!r}" for part in parts)
        raise ValueError(
            f"{key} has not the same shape in all rows ({', '.join(first.axes)}: {sizes}): choose rows=, or positions "
            f"instead of words as tokens="
        )
    positions = None if first.positions is None else tuple(own for part in parts for own in part.form.positions or ())
    rows = tuple(row for part in parts for row in part.form.rows)
    form = ActivationForm(first.axes, rows, first.grid, first.image, first.text, positions)
    return Kept(CpuCopy(torch.cat([part.copy.value for part in parts])), form)


def _plain(value: object) -> Any:
    """Return a setting as JSON holds it; a function by its name."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if callable(value) and not isinstance(value, NamedLimit):  # which says its numbers and functions in its repr
        return name_of(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value))
    if isinstance(value, (list, tuple, range)):
        return list(map(_plain, value))
    return repr(value)
