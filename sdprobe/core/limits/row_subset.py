"""`RowSubset` and `PartialRun`: some rows of a run, given to a hook as if they were the whole run.

Images are numbered again from 0, in the run too, so that a hook which counts images counts those it gets. The other
entries are passed on unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.attention_call import by_own_mask
from sdprobe.core.call_hook import called, checked
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.run import Role, Row, Run, as_slice
from sdprobe.core.run_control import ControlOfSome
from sdprobe.core.site import OutsideSite, Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text

Chosen = Callable[[Row], bool]
LATER = ("images", "latents", "levels", "stopped_at")
"""What a run has only once its hooks have started."""


class PartialRun(Run):
    """A run with only these images, each with its own prompt."""

    def __init__(self, whole: Run, images: Sequence[int]) -> None:
        vars(self).update({name: value for name, value in vars(whole).items() if name not in LATER})
        settings, of = whole.settings, [i // whole.settings.images_per_prompt for i in images]
        seed = tuple(settings.seed[i] for i in images) if isinstance(settings.seed, tuple) else settings.seed
        self._whole, self._chosen = whole, tuple(images)
        if "control" in vars(whole):  # an opened run makes no more steps
            self.control = ControlOfSome(whole.control, (len(images), settings.images))
        self.prompts = tuple(whole.prompts[k] for k in of)
        self.negative_prompts = tuple(whole.negative_prompts[k] for k in of)
        self.settings = replace(
            settings,
            prompt=tuple(settings.prompt[k] for k in of),
            negative_prompt=tuple(settings.negative_prompt[k] for k in of),
            seed=seed,
            images_per_prompt=1,
        )

    def __getattr__(self, name: str) -> Any:
        """Return what exists only once the run has begun, for these images."""
        if name == "images":
            images = self._whole.images
            each = len(images) // self._whole.settings.images  # of a video all frames
            return [own for i in self._chosen for own in images[each * i : each * (i + 1)]]
        if name == "latents":
            return None if self._whole.latents is None else self._whole.latents[list(self._chosen)]
        if name in ("levels", "stopped_at"):
            return getattr(self._whole, name)
        return super().__getattr__(name)


class RowSubset:
    """Chosen images of a run, and the conversion of values and records at the points to them.

    Args:
        run: the whole run.
        chosen: says whether a row is included. An image is included if any of its rows is.
        limited: makes a hook that is limited to these rows.
    """

    def __init__(self, run: Run, chosen: Chosen, limited: Callable[[Any], Any]) -> None:
        self.run, self.chosen, self.limited = run, chosen, limited
        rows = rows_of_run(run)
        self.images = sorted({row.image for row in rows if chosen(row)})
        # A hook without any row still starts and finishes, and may need the run.
        whole = len(self.images) in (0, run.settings.images)
        self.part = run if whole else PartialRun(run, self.images)

    def passing(self, hook: Observer | Transform, inner: Any, point: str, x: Any, place: Any) -> Any:
        """Call the inner hook with the chosen entries at a point, and return the value of all entries."""
        entries = self.entries(x, place, point)
        count = len(x.query if isinstance(x, Attention) else x)
        if not entries:
            return x if isinstance(hook, Transform) else None
        if len(entries) == count and self.part is self.run:
            return getattr(inner, point)(x, place)
        near = self.place(place, point, entries)
        given = rows_of_attention(x, entries, near.step) if isinstance(x, Attention) else x[as_slice(entries)]
        returned = called(inner, point, given, near)
        if isinstance(hook, Observer):
            return returned
        checked(inner, point, given, returned)
        if returned is given:
            return x
        if isinstance(x, Attention):
            return with_rows(x, entries, given, returned)
        return with_entries(x, entries, returned)

    def entries(self, x: Any, place: Text | Step | Site | Run, point: str) -> list[int]:
        """Return the numbers of a value's entries that are included."""
        if isinstance(place, Text):
            return [i // self.run.settings.images_per_prompt for i in self._images_of(place)]
        if isinstance(place, Step) and point != "model_output":
            return self.images
        if isinstance(place, Run):
            return self.images
        rows = place.rows
        count = len(x.query if isinstance(x, Attention) else x)
        if count != len(rows):
            where = f"the module {place.name}" if isinstance(place, Site) else point
            raise ValueError(
                f"rows cannot be chosen at {where}: it has {count} entries, and there are {len(rows)} rows"
            )
        if isinstance(place, Site):
            return entries_of(place, self.chosen)
        return [i for i, row in enumerate(rows) if self.chosen(row)]

    def place(self, place: Any, point: str, entries: Sequence[int]) -> Any:
        """Return the point's second argument for the included entries."""
        if isinstance(place, Run):
            return self.part
        if isinstance(place, Text):
            return self._text(place, entries)
        if isinstance(place, OutsideSite):
            during = self._text(place.during, entries) if isinstance(place.during, Text) else self.part
            rows = tuple(replace(place.rows[i], image=self.images.index(place.rows[i].image)) for i in entries)
            return replace(place, during=during, entries=rows)
        if isinstance(place, Site):
            return replace(place, step=self._step(place.step, entries))
        if point == "model_output":
            return self._step(place, entries)
        return self._step(place, [i for i, row in enumerate(place.rows) if row.image in self.images])

    def _images_of(self, text: Text) -> list[int]:
        run = self.run
        return [i for i in self.images if self.chosen(Row(i, run.prompt_of(i, text.role), text.role))]

    def _text(self, text: Text, entries: Sequence[int]) -> Text:
        at = list(entries)
        return replace(
            text,
            prompts=tuple(text.prompts[k] for k in at),
            run=self.part,
            layers=lambda: tuple(layer[at] for layer in text.layers()),
            again=lambda: text.again().of(at),
        )

    def _step(self, step: Step, kept: Sequence[int]) -> Step:
        whole, images = step.latents, self.images

        def to_prediction(
            _: Step, x: Tensor, hooks: tuple[Any, ...], role: Role | None, beside: Tensor | None, by: Any
        ) -> Tensor:
            """Return the denoiser's output for the included images; the call itself has all images."""
            rows = [row for row in step.rows if role in (None, row.role)]
            included = [i for i, row in enumerate(rows) if row.image in images]
            if beside is not None:
                if len(beside) != len(included):  # as many as the whole run has would be taken for its own
                    raise ValueError(f"tokens beside the prompt are for {len(included)} rows here, not {len(beside)}")
                beside = with_entries(beside.new_zeros(len(rows), *beside.shape[1:]), included, beside)
            given = with_entries(whole.to(x.dtype), images, x)
            return step.to_prediction(step, given, tuple(map(self.limited, hooks)), role, beside, by)[included]

        return replace(
            step,
            latents=whole[as_slice(images)],
            rows=tuple(replace(step.rows[i], image=images.index(step.rows[i].image)) for i in kept),
            run=self.part,
            model_output=None if step.model_output is None else step.model_output[as_slice(kept)],
            to_state=lambda x: step.to_state(whole),  # only the whole run can continue
            to_prediction=to_prediction,
        )


def rows_of_run(run: Run) -> list[Row]:
    """Return every row of the denoiser's batch in a step."""
    return [Row(i, run.prompt_of(i, role), role) for role in run.roles for i in range(run.settings.images)]


def entries_of(site: Site, chosen: Chosen) -> list[int]:
    """Return the numbers of the entries of an activation that are included.

    Raises ValueError in a text encoder, where a prompt is one entry for all of its images, if only some are included.
    """
    if not (isinstance(site, OutsideSite) and isinstance(site.during, Text)):
        return [i for i, row in enumerate(site.rows) if chosen(row)]
    each, found = site.run.settings.images_per_prompt, []
    for k, row in enumerate(site.rows):
        included = [chosen(replace(row, image=row.image + i)) for i in range(each)]
        if any(included) and not all(included):
            raise ValueError(
                f"{site.name} encodes a prompt once for all of its {each} images: choose rows of all of them, or give "
                f"the prompt once for each image"
            )
        found += [k] * included[0]
    return found


def number_in_whole(run: Run, image: int) -> int:
    """Return the number in the whole run of an image of a run, which may be a part of the whole."""
    while isinstance(run, PartialRun):
        image, run = run._chosen[image], run._whole
    return image


def whole_run(run: Run) -> Run:
    """Return the run that a run is a part of; one that is no part is returned itself."""
    while isinstance(run, PartialRun):
        run = run._whole
    return run


def numbers_in_whole(run: Run) -> list[int]:
    """Return the numbers in the whole run of all images of a run."""
    return [number_in_whole(run, image) for image in range(run.settings.images)]


def with_entries(x: Tensor, entries: Sequence[int], new: Tensor) -> Tensor:
    """Return a tensor with some entries replaced."""
    return torch.index_copy(x, 0, torch.tensor(list(entries)).to(x.device, non_blocking=True), new)


def rows_of_attention(attn: Attention, entries: Sequence[int], step: Step) -> Attention:
    """Return the same attention call for some of its rows."""
    at, mask = as_slice(entries), attn.mask
    given = frozenset(k for k, entry in enumerate(entries) if entry in attn.given)
    held: dict[str, Any] = {"output": attn.output()[at]} if given else {}
    if not attn.replaced and (logsumexp := attn.logsumexp()) is not None:
        held["logsumexp"] = logsumexp[at]  # found once for all rows
    made = replace(
        attn,
        query=attn.query[at],
        key=attn.key[at],
        value=attn.value[at],
        rows=step.rows,
        replaced={k: attn.replaced[entry] for k, entry in enumerate(entries) if entry in attn.replaced},
        given=given,
        _made=held,
    )
    if mask is None or mask.ndim < 4 or len(mask) == 1:
        return made

    # The call's own kernel uses the mask of all rows.
    return replace(made, mask=mask[at], kernel=by_own_mask, fused=lambda own: None)


def with_rows(attn: Attention, entries: Sequence[int], given: Attention, returned: Attention) -> Attention:
    """Return a call with some rows replaced; the output of the other rows is exactly as before."""
    held: dict[str, Any] = {}
    for name in ("query", "key", "value"):
        new, own, was = getattr(returned, name), getattr(attn, name), getattr(given, name)
        if new is not was and new.shape == was.shape:
            held[name] = with_entries(own, entries, new)
    # Further keys of some rows cannot stand beside those of the others: the output alone has them.
    other_keys = returned.key.shape != given.key.shape
    if returned.mask is not given.mask and returned.mask is not None and not other_keys:
        held |= {"mask": _mask_with_entries(attn, entries, returned.mask), "kernel": by_own_mask}
        held["fused"] = lambda own: None
    replaced = {k: own for k, own in attn.replaced.items() if k not in entries}
    replaced |= {entries[k]: own for k, own in returned.replaced.items()}
    given_rows = set(entries) if other_keys else {entries[k] for k in returned.given}
    output = with_entries(attn.output(), entries, returned.output())
    return replace(
        attn,
        **held,
        replaced=replaced,
        given=frozenset(given_rows | (attn.given - set(entries))),
        _made={"output": output},
    )


def change_rows(
    attn: Attention, site: Site, entries: Sequence[int], change: Callable[[Attention, Site], Attention]
) -> Attention:
    """Return a call of which some rows are changed, by a function of the call and site of these alone.

    The output of the other rows is exactly as before. Without rows, and where the function changes nothing, it is the
    very call.
    """
    if not entries:
        return attn
    if len(entries) == len(attn.query):
        return change(attn, site)
    step = replace(site.step, rows=tuple(attn.rows[k] for k in entries))
    given = rows_of_attention(attn, entries, step)
    changed = change(given, replace(site, step=step))
    return attn if changed is given else with_rows(attn, entries, given, changed)


def _mask_with_entries(attn: Attention, entries: Sequence[int], new: Tensor) -> Tensor:
    """Return the mask of a call, for every row, with that of some rows replaced."""
    shape = (*attn.query.shape[:3], attn.key.shape[2])
    whole = torch.ones(shape, dtype=torch.bool, device=new.device) if attn.mask is None else attn.mask.expand(shape)
    if whole.dtype == torch.bool and new.dtype != torch.bool:  # a bias, which the other rows have not
        whole = torch.zeros_like(whole, dtype=new.dtype).masked_fill(~whole, -math.inf)
    return with_entries(whole, entries, new.expand(len(entries), *shape[1:]))


def with_rows_of(attn: Attention, entries: Sequence[int], other: Attention, step: Step) -> Attention:
    """Return a call with some rows taken from another call of the same rows."""
    given, found = (rows_of_attention(own, entries, step) for own in (attn, other))
    return with_rows(attn, entries, given, replace(found, _made={"output": other.output()[as_slice(entries)]}))
