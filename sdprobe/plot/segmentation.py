"""`Segmentation`: a picture divided among several words by their heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from sdprobe.plot.heatmap import HeatMap
from sdprobe.plot.mask_scores import iou
from sdprobe.plot.shown_map import Picture

BACKGROUND = "background"
# Okabe & Ito 2008, "Color Universal Design": told apart with every kind of colour vision.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GREY = "#D0D0D0"
HATCHES = ("", "//", "..", "xx", "\\\\", "oo")  # what tells apart more words than there are colours


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture divided among words: each place goes to the word whose normalized map is highest there.

    L(p) = argmax over the words w, and the background, of M_w(p), with each map M_w from 0 to 1

    >>> import torch
    >>> import sdprobe
    >>> maps = {"left": torch.tensor([[9.0, 2.0, 0.0]]), "right": torch.tensor([[0.0, 1.0, 5.0]])}
    >>> found = sdprobe.Segmentation({word: sdprobe.HeatMap(own, word) for word, own in maps.items()})
    >>> found.names, found.labels
    (('background', 'left', 'right'), tensor([[1, 0, 2]]))

    Args:
        maps: the heat map of each word. Those of smaller grids are resized bicubically to the largest.
        background: True for M_background = 1 − max over w of M_w: a place is background if no map is above a half.
            A number in [0, 1] for a map that has this value everywhere: where no map is above it. False for none.

    Of a video the maps are normalized and compared over all frames, and labels and masks are ``[frames, h, w]``.

    Raises ValueError for no map, for maps with different ratios of height to width, for a word that is called
    ``"background"`` beside one, and for a background outside [0, 1].

    Source: Ahn & Kwak 2018, "Learning Pixel-Level Semantic Affinity with Image-Level Supervision for Weakly Supervised
    Semantic Segmentation" (CVPR), eq. 2 with an exponent of 1, for the background; the constant is that of Nguyen et
    al. 2023, "Dataset Diffusion" (NeurIPS), section 3, with one threshold where they have two.
    """

    maps: Mapping[str, HeatMap]
    background: bool | float = True
    picture: Picture | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.maps:
            raise ValueError("a segmentation is among words: give the map of at least one")
        if not 0 <= self.background <= 1:
            raise ValueError(f"background is True, False, or a number from 0 to 1, not {self.background!r}")
        if self.has_background and BACKGROUND in self.maps:
            raise ValueError("one of the words is 'background' itself: use background=False")
        h, w = self.size
        maps = list(self.maps.values())
        if others := [own for own in maps if own.values.shape[:-2] != maps[0].values.shape[:-2]]:
            raise ValueError(f"maps of one picture have the same frames, not {others[0]} beside {maps[0]}")
        if others := [own for own in maps if own.size[0] * w != own.size[1] * h]:
            raise ValueError(f"maps of one picture have one ratio of height to width, not {others[0]} beside {h}×{w}")
        if self.picture is None:
            object.__setattr__(self, "picture", maps[0].picture)

    @property
    def has_background(self) -> bool:
        """Whether places may belong to no word."""
        return self.background is not False

    @property
    def names(self) -> tuple[str, ...]:
        """What each label stands for: the background, if there is one, and the words."""
        return (*((BACKGROUND,) if self.has_background else ()), *self.maps)

    @property
    def size(self) -> tuple[int, int]:
        """The size ``(h, w)`` of the largest map."""
        return max((own.size for own in self.maps.values()), key=lambda size: size[0] * size[1])

    @cached_property
    def labels(self) -> Int[Tensor, "*frames h w"]:
        """The number of each place's name in `names`; of names that are equal there, the first."""
        return self.at(self.size)

    def at(self, size: tuple[int, int]) -> Int[Tensor, "*frames h w"]:
        """Return the labels at another size: the maps are resized bicubically, then compared."""
        maps = torch.stack([_normalized_at(own, size) for own in self.maps.values()])
        if self.has_background:
            known = isinstance(self.background, bool)
            rest = 1 - maps.amax(0) if known else torch.full_like(maps[0], float(self.background))
            maps = torch.cat([rest.unsqueeze(0), maps])
        return maps.argmax(0)

    def mask(self, name: str, size: tuple[int, int] | None = None) -> Bool[Tensor, "*frames h w"]:
        """Return where a word, or the background, is.

        Args:
            name: one of `names`.
            size: ``(h, w)``; None for the size of the maps.

        Raises KeyError for another name.
        """
        if name not in self.names:
            raise KeyError(f"{name!r} is no part of this segmentation; its parts: {', '.join(self.names)}")
        return (self.labels if size is None else self.at(size)) == self.names.index(name)

    def miou(self, masks: Mapping[str, Shaped[Any, "*frames h w"]]) -> float:
        """Return the mean intersection over union with the masks of objects, each at the mask's size.

        mIoU = mean over the names c given of |L = c ∩ B_c| / |L = c ∪ B_c|

        Args:
            masks: the mask ``[h, w]``, or ``[frames, h, w]``, of each object by its name; also of ``"background"``,
                if it is to count.

        Raises:
            KeyError: for a name that is none of `names`.
            ValueError: for no masks, and for a mask that is not ``[h, w]``, or of another ratio than the picture.

        Source: Everingham et al. 2015, "The Pascal Visual Object Classes Challenge: A Retrospective", section 5.1;
        there the counts are of a whole data set, here of this picture.
        """
        if not masks:
            raise ValueError("mean IoU needs the mask of at least one name")
        truths = {name: torch.as_tensor(own) for name, own in masks.items()}
        wrong = [name for name, own in truths.items() if own.ndim < 2 or not own.numel()]
        if wrong := wrong or [name for name, own in truths.items() if tuple(own.shape[:-2]) != self._frames]:
            axes = ", ".join([*map(str, self._frames), "h", "w"])
            raise ValueError(f"the mask of {wrong[0]!r} is not [{axes}]: {list(truths[wrong[0]].shape)}")
        h, w = (self._shown.height, self._shown.width) if self._shown else self.size
        for name, (height, width) in ((name, own.shape[-2:]) for name, own in truths.items()):
            if (height, width) != self.size and height * w != width * h:
                raise ValueError(
                    f"the mask of {name!r} is {height}×{width}: give one with the picture's ratio of height to width, "
                    f"{h}×{w}"
                )
        each = [iou(self.mask(name, (own.shape[-2], own.shape[-1])), own) for name, own in truths.items()]
        return sum(each) / len(each)

    def overlay(self, ax: Any = None, frame: int = 0) -> Figure:
        """Plot the parts over the picture in grey, with a legend, in colours that the colour-blind tell apart.

        The background keeps the picture's grey. From the eighth word on, colours are used again with a hatch.

        Args:
            ax: axes to draw on; None for a new figure.
            frame: in a video, which frame of the maps.
        """
        alone = ax is None
        figure = Figure(figsize=(4.4, 3.1), layout="constrained") if alone else ax.figure
        ax = figure.subplots() if alone else ax
        picture = self._shown if not self._frames else next(iter(self.maps.values())).frame(frame).picture
        size = (self._shown.height, self._shown.width) if self._shown else self.size
        labels = self.at(size).cpu().numpy()
        labels = labels[frame] if self._frames else labels
        under = np.full(size, 0.85)
        if isinstance(picture, Image.Image):
            under = np.asarray(picture.convert("L"), dtype=float) / 255
        shown = np.repeat((0.3 + 0.6 * under)[..., None], 3, axis=-1)
        legend = []
        for number, name in enumerate(self.names):
            colour, hatch = self._style(number)
            inside = labels == number
            if name != BACKGROUND or not self.has_background:
                shown[inside] = 0.3 * shown[inside] + 0.7 * np.array(to_rgb(colour))
            legend.append(Patch(facecolor=colour, edgecolor="0.2", linewidth=0.5, hatch=hatch, label=name))
        ax.imshow(shown, interpolation="nearest")
        for number in range(len(self.names)):
            inside = labels == number
            if inside.any() and not inside.all():
                ax.contour(inside, levels=[0.5], colors="white", linewidths=0.8)
            if self._style(number)[1] and inside.any():
                ax.contourf(inside, levels=[0.5, 1.5], colors="none", hatches=[self._style(number)[1]])
        ax.set_axis_off()
        if alone:
            figure.legend(handles=legend, loc="outside center right", fontsize=9, frameon=False)
        else:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 3}
            ax.legend(handles=legend, fontsize=8, frameon=False, **below)
        return figure

    @property
    def _frames(self) -> tuple[int, ...]:
        """The number of frames; empty for an image."""
        return tuple(next(iter(self.maps.values())).values.shape[:-2])

    @property
    def _shown(self) -> Image.Image | None:
        """The picture, or the first frame."""
        if self.picture is None or isinstance(self.picture, Image.Image):
            return self.picture
        return self.picture[0]

    def _style(self, number: int) -> tuple[str, str]:
        """The colour and the hatch of a part."""
        if self.has_background and number == 0:
            return GREY, ""
        word = number - self.has_background
        return COLOURS[word % len(COLOURS)], HATCHES[word // len(COLOURS) % len(HATCHES)]

    def __repr__(self) -> str:
        h, w = self.size
        size = "×".join(map(str, (*self._frames, h, w)))
        return f"Segmentation({', '.join(self.names)}; {size})"


def _normalized_at(heat: HeatMap, size: tuple[int, int]) -> Float[Tensor, "*frames h w"]:
    return heat.resize(size).normalized().values
