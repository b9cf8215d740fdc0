"""`Region`: where in a picture to look: `Detected`, `Heated`, `Area`, and `Outside` of one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.frames_of import at_frames, size_of
from sdprobe.experiments.measures.mask_on_grid import mask_on_grid
from sdprobe.experiments.measures.things_seen import Thing, refuse_unknown_words, said, things_in
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.plot.heatmap import THRESHOLD

REGIONS = "Detected('{colour} {shape}'), Heated('{colour}'), Area(mask), or Outside(...) of one"


@runtime_checkable
class Region(Protocol):
    """A part of the picture, found anew for each case. It is a frozen dataclass, as a measure is."""

    @property
    def name(self) -> str:
        """What to call it in the name of a measure."""
        ...

    def mask(self, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "*frames h w"] | None:
        """Return the part as a mask at the picture's size; None where this picture has no such part.

        Of a video it is the part of every frame, ``[h, w]``, or that of each, ``[frames, h, w]``.
        """
        ...


@dataclass(frozen=True)
class Detected:
    """The pixels of a thing that the detector sees in the untouched picture, of the embedded model only.

    >>> import sdprobe
    >>> case = Case("a blue circle", words={"colour": "blue", "shape": "circle"})
    >>> run = sdprobe.sample(sdprobe.load(), case.prompt, steps=4, seed=0, progress=False)
    >>> Detected("{colour} {shape}").mask(run, run, case).shape, Detected("red").mask(run, run, case)
    (torch.Size([64, 64]), None)

    Args:
        thing: a colour, a shape, or both, as in ``"red circle"``; ``"{...}"`` is a word of the case. Of several things
            that fit, the largest.

    Raises ValueError for other words, and for pictures of another size than the embedded model's.
    """

    thing: str = "{colour} {shape}"

    def __post_init__(self) -> None:
        refuse_unknown_words(self.thing)

    @property
    def name(self) -> str:
        return said(self.thing)

    def mask(self, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "*frames h w"] | None:
        """Return the pixels of the thing; None if it is not seen in the untouched picture."""
        found = Thing.of(case.fill(self.thing)).seen(things_in(untouched))
        return None if found is None else torch.tensor(found.mask)


@dataclass(frozen=True)
class Heated:
    """Where the heat map of a word, of the untouched run, is above a threshold.

    >>> import sdprobe
    >>> case = Case("a red circle", words={"shape": "circle"})
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), case.prompt, hooks=[sdprobe.AttentionMaps()], steps=2, seed=0, progress=False
    ... )
    >>> Heated("{shape}").mask(run, run, case).shape
    torch.Size([64, 64])

    Args:
        word: a word of the prompt, as `sdprobe.AttentionMaps.heat_map` takes it; ``"{...}"`` is a word of the case.
        threshold: in [0, 1], of the map scaled from 0 to 1 at the picture's size.

    Raises ValueError if the experiment's hooks have no `sdprobe.AttentionMaps`, or several.
    """

    word: str
    threshold: float = THRESHOLD

    @property
    def name(self) -> str:
        at = "" if self.threshold == THRESHOLD else f" above {self.threshold:g}"
        return f"heat of {said(self.word)}{at}"

    def mask(self, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "*frames h w"] | None:
        """Return where the map is above the threshold; of a video in each of its frames."""
        heat = self._maps(untouched).heat_map(case.fill(self.word))
        return at_frames(heat.resize(size_of(untouched)).mask(self.threshold).cpu(), untouched)

    def _maps(self, untouched: Run) -> AttentionMaps:
        given = [untouched[hook] for hook, _ in untouched.records]
        found = [own for own in given if isinstance(own, AttentionMaps)]
        if len(found) != 1:
            there = f"there are {len(found)} AttentionMaps" if found else "no AttentionMaps is"
            raise ValueError(
                f"{self!r} reads a heat map of the untouched run, and {there} among the hooks of the experiment: "
                f"give one, as in experiment(..., hooks=[sdprobe.AttentionMaps()])"
            )
        return found[0]


@dataclass(frozen=True, eq=False)
class Area:
    """A given part of the picture, the same in every case.

    >>> import numpy as np
    >>> left = np.zeros((64, 64), dtype=bool)
    >>> left[:, :32] = True
    >>> Area(left), Area(left) == Area(left.tolist()), Area(left) == Area(~left)
    (Area(2048 of 64×64), True, False)

    Args:
        places: the mask ``[h, w]``, of booleans: an array, a tensor or nested sequences; of the picture's size, or of
            another with the same ratio of height to width. Of a video it is the same of every frame, or a mask
            ``[frames, h, w]`` with the frames of the video, or of its latents, as a heat map has them.

    Raises:
        TypeError: for a mask that is not of booleans.
        ValueError: for a mask of another number of axes, or without a place.
    """

    places: Any

    def __post_init__(self) -> None:
        if callable(getattr(self.places, "mask", None)):
            raise TypeError(f"an area is a mask of booleans; {self.places!r} makes one: Area(heat_map.mask(0.4))")
        mask = np.array(self.places.cpu() if isinstance(self.places, Tensor) else self.places)
        if mask.dtype != np.bool_:
            raise TypeError(f"an area is a mask of booleans, such as values > 0.5, not numbers of {mask.dtype}")
        if mask.ndim not in (2, 3) or not mask.any():
            raise ValueError(
                f"an area is a mask [h, w], or [frames, h, w] of a video, with at least one place, not "
                f"{list(mask.shape)} with {int(mask.sum())}"
            )
        mask.setflags(write=False)
        object.__setattr__(self, "places", mask)

    @property
    def name(self) -> str:
        return "an area"

    def mask(self, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "*frames h w"] | None:
        """Return the mask at the picture's size; of a video, if it has frames, for each of its frames.

        Raises ValueError if its ratio of height to width is another, and for frames that the picture does not have.
        """
        mask = torch.tensor(self.places)
        if mask.ndim == 3:
            mask = at_frames(mask, untouched)
        return mask_on_grid(mask, (*mask.shape[:-2], *size_of(untouched)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Area) and np.array_equal(self.places, other.places)

    def __hash__(self) -> int:
        return hash((self.places.shape, self.places.tobytes()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Area, (self.places,)

    def __repr__(self) -> str:
        return f"Area({int(self.places.sum())} of {'×'.join(map(str, self.places.shape))})"


@dataclass(frozen=True)
class Outside:
    """The rest of the picture.

    >>> Outside(Detected("{shape}")).name
    'outside shape'

    Args:
        region: the part that is left out.
    """

    region: Region

    def __post_init__(self) -> None:
        refuse_no_region(self.region)

    @property
    def name(self) -> str:
        return f"outside {self.region.name}"

    def mask(self, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "*frames h w"] | None:
        """Return all but the region; None where the picture has no such region."""
        found = self.region.mask(run, untouched, case)
        return None if found is None else ~found


def refuse_no_region(within: Any) -> None:
    """Raise TypeError for what is no region."""
    if isinstance(within, type) or not isinstance(within, Region):
        raise TypeError(f"{within!r:.80} is no region: a region is {REGIONS}")


def mask_of(within: Region | None, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "*frames h w"] | None:
    """Return where to measure: the whole picture for no region; None where nothing is to be measured.

    Of a video the mask is that of each of its frames.
    """
    if within is None:
        return at_frames(torch.ones(size_of(untouched), dtype=torch.bool), untouched)
    found = within.mask(run, untouched, case)
    return at_frames(found, untouched) if found is not None and found.any() else None
