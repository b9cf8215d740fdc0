"""`AttentionFromSource`: base of the hooks that take attention from another prompt of the run, or an earlier run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.activations.record import ActivationRecord, RowLabel
from sdprobe.core.activations.source import Source as RecordSource
from sdprobe.core.activations.source import record_of
from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.limits.row_subset import change_rows, number_in_whole, numbers_in_whole, whole_run
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.written_prompt import read_prompt
from sdprobe.transform.source_of_activations import entries_of_rows, key_at, record_at

Source = int | RecordSource


class SourceRows(NamedTuple):
    """The rows of a call that are edited, and the source's prompt and probabilities for each of them."""

    entries: list[int]
    prompts: tuple[Prompt, ...]
    probs: Float[Tensor, "edits heads queries columns"]


class AttentionFromSource(Transform):
    """Base of the hooks that put a source's attention, from the picture's places, in the place of an edit's.

    It acts in the rows of the prompt (``"cond"``), which are told by their labels.

    Args:
        source: where attention comes from. A number: a prompt of the run; image j of every other prompt takes the
            attention of the source's image j. Else an earlier run with an `AttentionRecorder`, ``run[recorder]``, its
            ``record``, or the folder of one: an image takes the attention of the image with the same number, and a
            record of one image is used for every image. One step of one site is read at a time.
        until: the share of the steps in which it acts, from the first step on.
        targets: the numbers of the prompts that are edited; None for all but the source.
        modules: fnmatch patterns on dotted module names; None for all.

    Attributes:
        columns: what is looked at, ``"text"`` or ``"image"``.
    """

    columns: Literal["text", "image"]

    def __init__(
        self,
        source: Source = 0,
        *,
        until: float = 1.0,
        targets: int | Sequence[int] | None = None,
        modules: str | Sequence[str] | None = None,
    ) -> None:
        if isinstance(until, bool) or not 0 <= until <= 1:
            raise ValueError(f"until is the share of the steps, from 0 to 1, not {until!r}")
        self.source = operator.index(source) if isinstance(source, Integral) else source
        self.until, self.modules = until, patterns(modules)
        several = targets if isinstance(targets, Sequence) or targets is None else [targets]
        self.targets = None if several is None else [*map(operator.index, several)]
        if self.targets == [] or (isinstance(self.source, int) and self.source in (self.targets or ())):
            raise ValueError(f"targets are numbers of prompts to edit, other than the source, not {targets!r}")

    def start(self, run: Run) -> None:
        self._record = None if isinstance(self.source, int) else record_of(self.source, "attention")
        self._readings: dict[str, Prompt] = {}
        if self._record is not None:
            self._refuse_other_steps(self._record, run)
        whole, images = whole_run(run), numbers_in_whole(run)
        self._refuse_numbers(len(whole.prompts))
        each = whole.settings.images_per_prompt
        edited = [image for image in images if self._edits(image, each)]
        if not edited:
            raise ValueError(f"{self!r} would never act: it gets no image of a prompt that it edits")
        if self._record is None and (lost := [own for own in edited if self._partner(own, each) not in images]):
            raise ValueError(
                f"{self!r} takes the attention of image {self._partner(lost[0], each)} for image {lost[0]}, and is "
                f"limited to rows without it: leave the source among the rows, and say what is edited with targets="
            )
        for image in edited:
            source = whole.prompt_of(self._partner(image, each)) if self._record is None else self._recorded(image)
            self.check(source, whole.prompt_of(image))

    def attention(self, attn: Attention, site: Site) -> Attention:
        if not self.acts_at(site):
            return attn
        keys = site.text if self.columns == "text" else site.image
        if keys is None or (found := self._rows(attn, site, keys)) is None:
            return attn

        def own() -> Tensor:
            return attn.probs(rows=found.entries, queries=site.image, tokens=keys)

        targets = [attn.rows[k].prompt for k in found.entries]
        count = len(range(attn.key.shape[2])[keys])
        return _with_block(attn, site, found.entries, keys, self.edited(found, targets, own, count))

    def acts_at(self, site: Site) -> bool:
        """Whether it acts at a site: in a step that begins within the share of the steps."""
        return site.step.index < self.until * site.step.total - 1e-6  # of 0.55 · 100, which is more than 55

    def check(self, source: Prompt, target: Prompt) -> None:
        """Raise ValueError, before the run, for an edit that cannot be made."""

    def edited(
        self, found: SourceRows, targets: Sequence[Prompt], own: Callable[[], Tensor], count: int
    ) -> Float[Tensor, "edits heads queries columns"]:
        """Return the probabilities of the edits.

        Args:
            found: what the source has.
            targets: the prompt of each edit.
            own: returns the edits' own probabilities.
            count: the number of their columns.
        """
        raise NotImplementedError

    def _rows(self, attn: Attention, site: Site, keys: slice) -> SourceRows | None:
        """Return what the source has for the rows of a call; None where no row is edited."""
        run, each = site.run, whole_run(site.run).settings.images_per_prompt
        rows = {number_in_whole(run, row.image): k for k, row in enumerate(attn.rows) if row.role == "cond"}
        edited = {image: k for image, k in rows.items() if self._edits(image, each)}
        if not edited:
            return None
        if not isinstance(self.source, int):
            record = record_at(self, self.source, site, "attention")
            return None if record is None else self._of_record(record, attn, site, list(edited.values()))
        partners = {image: self._partner(image, each) for image in edited}
        if lost := [image for image, partner in partners.items() if partner not in rows]:
            if site.further:  # of some of the images
                return None
            raise ValueError(
                f"{self!r}: image {lost[0]} takes the attention of image {partners[lost[0]]}, whose row "
                f"of the prompt is not among those it gets: leave it among the rows"
            )
        sources = [rows[partner] for partner in partners.values()]
        probs = attn.probs(rows=sources, queries=site.image, tokens=keys)
        return SourceRows(list(edited.values()), tuple(attn.rows[k].prompt for k in sources), probs)

    def _of_record(self, record: ActivationRecord, attn: Attention, site: Site, entries: list[int]) -> SourceRows:
        at = replace(site, side="output", stream=self.columns)
        key = key_at(record, at)
        recorded = entries_of_rows(record, key, [attn.rows[k] for k in entries], at)
        labels = record.rows_at(site.index, key)
        probs = record.at(site.index, key)[recorded]
        places = len(range(attn.query.shape[2])[site.image])
        if probs.shape[1:3] != (attn.query.shape[1], places):
            raise ValueError(
                f"the attention recorded of {site.name} is {list(probs.shape)} [rows, heads, places, tokens], and here "
                f"it has {attn.query.shape[1]} heads and {places} places: the record must be of pictures of this size"
            )
        prompts = tuple(self._reading(record, labels[k]) for k in recorded)
        return SourceRows(entries, prompts, probs.to(attn.query.device, non_blocking=True).float())

    def _recorded(self, image: int) -> Prompt:
        """Return the prompt of the record's row for an image."""
        record = self._record
        assert record is not None
        labels = [
            label
            for index in record.indices[:1]
            for form in [*record.forms(index).values()][:1]
            for label in form.rows
            if label.role == "cond"
        ]
        images = {label.image for label in labels}
        found = [label for label in labels if len(images) == 1 or label.image == image]
        if not found:
            raise ValueError(
                f"{self!r}: the record has no attention of image {image} in the role 'cond'; it has that of the images "
                f"{sorted(images)}"
            )
        return self._reading(record, found[0])

    def _reading(self, record: ActivationRecord, label: RowLabel) -> Prompt:
        """Return a prompt of the recorded run, as it was read there."""
        held: dict[str, Prompt] = vars(self).get("_readings", {})
        if label.prompt not in held:
            held[label.prompt] = read_prompt(record.description.get("readings", {}).get(label.prompt))
        return held[label.prompt]

    def _refuse_other_steps(self, record: ActivationRecord, run: Run) -> None:
        """Refuse a record whose steps, which are found by their number, are of other noise."""
        for name in ("steps", "scheduler"):
            there, here = record.description.get(name), getattr(run.settings, name)
            if there is not None and there != here:
                raise ValueError(
                    f"{self!r}: the record is of a run with {name}={there!r}, and this run has {name}={here!r}: their "
                    f"steps, which go together by their numbers, have other noise. Give both the same {name}"
                )

    def _edits(self, image: int, each: int) -> bool:
        number = image // each
        return number != self.source if self.targets is None else number in self.targets

    def _partner(self, image: int, each: int) -> int:
        """Return the source's image for an image, by their numbers in the whole run."""
        assert isinstance(self.source, int)
        return self.source * each + image % each

    def _refuse_numbers(self, count: int) -> None:
        if isinstance(self.source, int) and count == 1:
            raise ValueError(
                f"{self!r} needs a source: give two prompts, the source and the edit, or the record of an earlier run, "
                f"made with an AttentionRecorder"
            )
        for number in [*([self.source] if isinstance(self.source, int) else []), *(self.targets or [])]:
            if not 0 <= number < count:
                raise ValueError(f"{self!r}: this run has no prompt {number}; its prompts are 0 to {count - 1}")


def columns_of(
    shares: Float[Tensor, "source target"], source: int, target: int, prompts: Sequence[Prompt] = ()
) -> Float[Tensor, "sources targets"]:
    """Return shares of tokens for a call with as many columns.

    Columns past the prompt's tokens, such as those of an encoder that a pipeline lacks, go one by one. Padding of the
    prompts may have no columns.
    """
    own, other = shares.shape
    padding = [prompt.roles.count("pad") for prompt in prompts] or [0, 0]
    if own - padding[0] <= source < own or other - padding[1] <= target < other:
        shares = shares[:source, :target]
        own, other = shares.shape
    if source < own or target < other:
        raise ValueError(f"the prompts have {own} and {other} tokens, and attention has {source} and {target} columns")
    found = shares.new_zeros(source, target)
    found[:own, :other] = shares
    further = range(min(source - own, target - other))
    found[[own + k for k in further], [other + k for k in further]] = 1
    return found


def _with_block(attn: Attention, site: Site, entries: list[int], keys: slice, new: Tensor) -> Attention:
    """Return a call in which the picture's places look with these probabilities, in some rows; others are exact."""

    def changed(given: Attention, at: Site) -> Attention:
        if tuple(new.shape[2:]) == (given.query.shape[2], given.key.shape[2]):
            return given.with_probs(new)
        probs = given.probs().clone()
        probs[:, :, at.image, keys] = new.to(probs)
        return given.with_probs(probs)

    return change_rows(attn, site, entries, changed)
