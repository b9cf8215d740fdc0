"""`Ablate`: remove what an activation says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.source import Source, record_of
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Row, Run
from sdprobe.core.site import Site, is_map
from sdprobe.transform.part_of_activation import PartOfActivation, rows_in, said_of
from sdprobe.transform.source_of_activations import mean_of_record, record_at, refuse_unrecorded

WAYS = ("zero", "mean", "resample", "shuffle")


class Ablate(Transform):
    """Replace activations by zeros, by a mean, or by those of another image.

    >>> import torch
    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> zero = sdprobe.Ablate("mid_block.attentions.0*attn2")
    >>> by_hand = sdprobe.on("activation", lambda x: 0 * x, modules="mid_block.attentions.0*attn2")
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=[hook], **settings) for hook in (zero, by_hand)]
    >>> torch.equal(runs[0].latents, runs[1].latents)
    True

    Args:
        modules: patterns on dotted module names.
        with_: what takes the activation's place.

            ``"zero"``: zeros.

            ``"mean"``: in each row and channel, the mean over all places. The mean of a row stays, and what differs
            from place to place is removed. Where the positions are image and text, each has its own mean.

            ``"resample"``: the same tensor of another image of the run, in the same role. Which image is drawn with the
            seed, and is the same at all modules and steps; no image keeps its own. Use prompts or seeds that differ in
            what is tested.

            ``"shuffle"``: the row's own vectors, with the places permuted. The order is drawn with the seed, and is the
            same for all rows, and at all modules of as many places; image and text are permuted apart.

            A record (a `Run` with an `Activations` hook, ``run[activations]``, an `ActivationRecord`, or its folder):
            the mean over its images, place by place, at the same step and in the same role. This is mean ablation
            with a reference distribution, the images of the record. In further calls it acts as `Patch`. To resample
            from a record, use `Patch`.
        heads: numbers of attention heads, where the width is heads side by side: ``modules="*.to_out.0"``,
            ``sides=("input",)``; None for all.
        channels: numbers of channels; None for all.
        places: a mask of booleans over the picture, ``[h, w]`` or ``[images, h, w]``; of a heat map
            ``heat.mask(threshold)``. It is resized to each grid: a place is ablated if at least half of it is covered.
            None for every position.
        sides: ``"output"`` for what the modules give, ``"input"`` for what they take.
        streams: patterns on the tensors of a module with several (`Site.stream`); None for all.
        seed: of ``"resample"`` and ``"shuffle"``.

    Raises:
        ValueError: for an unknown ``with_``; in a run, for ``"resample"`` with one image, for ``"mean"`` and
            ``"shuffle"`` where an activation has no places, for places, channels or heads that a module does not
            have, and for what a record does not hold (also KeyError, as `Patch`).

    Source: Wang et al. 2023, "Interpretability in the Wild", section 2.1 (mean ablation with a reference distribution);
    Chan et al. 2022, "Causal Scrubbing" (resampling ablation).
    """

    def __init__(
        self,
        modules: str | Sequence[str],
        with_: Literal["zero", "mean", "resample", "shuffle"] | Source = "zero",
        *,
        heads: Sequence[int] | None = None,
        channels: Sequence[int] | None = None,
        places: Any = None,
        sides: str | Sequence[str] = ("output",),
        streams: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.modules, self.with_, self.seed = patterns(modules), with_, seed
        self.heads, self.channels, self.places = heads, channels, places
        self.streams, self.sides = patterns(streams), patterns(sides) or ()
        self._part = PartOfActivation(places, channels, heads)
        if isinstance(with_, str) and with_ not in WAYS and not Path(with_).is_dir():
            raise ValueError(
                f"with_ is one of {', '.join(map(repr, WAYS))}, or a record or its folder; there is no folder {with_!r}"
            )

    def start(self, run: Run) -> None:
        if not isinstance(self.with_, str) or self.with_ not in WAYS:
            self._record = record_of(self.with_)
            refuse_unrecorded(self, self._record)
        if self.with_ == "resample" and run.settings.images < 2:
            raise ValueError(
                f"{self!r} takes the activations of another image, and this run has one: sample several images, use "
                f"'shuffle' to permute the places, or Patch to take the activations of another run"
            )

    def activation(self, x: Shaped[Tensor, "rows ..."], site: Site) -> Shaped[Tensor, "rows ..."]:
        return self._part.put(self._instead(x, site), x, site)

    def _instead(self, x: Tensor, site: Site) -> Tensor:
        if not isinstance(self.with_, str) or self.with_ not in WAYS:
            record = record_at(self, self.with_, site)
            return x if record is None else mean_of_record(record, x, site)
        if self.with_ == "zero":
            return torch.zeros_like(x)
        if self.with_ == "resample":
            return x[self._others(rows_in(x, site))]
        return over_places(x, site, _mean if self.with_ == "mean" else self._shuffled)

    def _others(self, rows: Sequence[Row]) -> list[int]:
        """Return for each row the entry of another image in the same role."""
        images = sorted({row.image for row in rows})
        order = torch.randperm(len(images), generator=self._generator()).tolist()
        # Each takes from the next in a random circle, so none takes from itself.
        other = {images[own]: images[order[k - 1]] for k, own in enumerate(order)}
        at = {(row.image, row.role): entry for entry, row in enumerate(rows)}
        missing = [row for row in rows if (other[row.image], row.role) not in at]
        if missing or len(images) < 2:
            raise ValueError(
                f"{self!r} takes the activations of another image in the same role, and the rows here are "
                f"{', '.join(f'{row.role} of image {row.image}' for row in rows)}"
            )
        return [at[other[row.image], row.role] for row in rows]

    def _shuffled(self, x: Shaped[Tensor, "rows positions width"]) -> Shaped[Tensor, "rows positions width"]:
        return x[:, torch.randperm(x.shape[1], generator=self._generator()).to(x.device)]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def over_places(x: Shaped[Tensor, "rows ..."], site: Site, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return an activation changed as ``[rows, positions, width]``; its parts, image, text and reference, each apart.

    Raises ValueError for an activation without several places.
    """
    places = x[0, 0].numel() if is_map(x, site) else x.shape[1] if x.ndim == 3 else 1
    if places < 2:
        raise ValueError(
            f"{said_of(site)} is {list(x.shape)}, without several places: replace it with 'zero', 'resample', or the "
            f"mean of a record"
        )
    if is_map(x, site):
        return change(x.flatten(2).mT).mT.reshape(x.shape).contiguous()
    parts = [part for part in (site.text, site.reference) if part is not None]
    cuts = {0, x.shape[1], *(edge for part in parts for edge in (part.start, part.stop))}
    edges = sorted(cuts)
    return torch.cat([change(x[:, a:b]) for a, b in itertools.pairwise(edges)], dim=1)


def _mean(x: Shaped[Tensor, "rows positions width"]) -> Shaped[Tensor, "rows positions width"]:
    return x.mean(1, keepdim=True).repeat(1, x.shape[1], 1)  # a copy: later modules may write into it
