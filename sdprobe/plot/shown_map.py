"""`ShownMap`: a map over an image or the frames of a video: its frames, its sizes, and how it is shown."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdprobe.plot import figures as plot
from sdprobe.plot.frame_groups import between_frames, frame_groups, shown_frames
from sdprobe.plot.heat_film import HeatFilm
from sdprobe.plot.resized import resize

Picture = Image.Image | Sequence[Image.Image]
"""An image, or the frames of a video."""

Kind = TypeVar("Kind", bound="ShownMap")  # not typing.Self, which the runtime type checks do not support


@dataclass(frozen=True, eq=False)
class ShownMap:
    """A map over an image, or over the frames of a video; see `sdprobe.HeatMap`."""

    values: Float[Tensor, "*frames h w"]
    word: str = ""
    picture: Picture | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.values.ndim not in (2, 3):
            raise ValueError(f"a map is [h, w], that of a video [frames, h, w], not {list(self.values.shape)}")
        if self.picture is None:
            return
        if self.is_video == isinstance(self.picture, Image.Image):
            wanted = "the frames of the video" if self.is_video else "one image"
            raise ValueError(f"the picture of a map {list(self.values.shape)} is {wanted}")
        if not isinstance(self.picture, Image.Image):
            object.__setattr__(self, "picture", tuple(self.picture))
            frame_groups(len(self.picture), self.frames)  # says how many there can be

    @property
    def is_video(self) -> bool:
        """Whether it is the map of a video."""
        return self.values.ndim == 3

    @property
    def frames(self) -> int:
        """How many frames the map has; 1 for that of an image."""
        return len(self.values) if self.is_video else 1

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the map."""
        return self.values.shape[-2], self.values.shape[-1]

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures under it: one image, the frames of a video, or none."""
        if self.picture is None:
            return ()
        return (self.picture,) if isinstance(self.picture, Image.Image) else tuple(self.picture)

    def frame(self: Kind, number: int) -> Kind:
        """Return the map ``[h, w]`` of one frame of the map, over the middle one of the video's frames that it covers.

        It is a map of its own, so `overlay` and `mask` normalize it by itself. `film` has all frames on one scale.

        Raises IndexError for a frame that the map does not have.
        """
        if not 0 <= number < self.frames:
            raise IndexError(f"frame {number} is not in this map of {self.frames} frames, counted from 0")
        if not self.is_video:
            return self
        shown = self.pictures and self.pictures[shown_frames(self._groups())[number]]
        return replace(self, values=self.values[number], picture=shown or None)

    def film(self, *, causal: bool | None = None, smooth: bool = False) -> HeatFilm:
        """Return the map over every frame of the video, on one scale: for a GIF, an MP4 or a contact sheet.

        Each frame of the video shows the map of the latent frame that it was decoded from: nothing is interpolated in
        time unless asked for.

        Args:
            causal: whether the autoencoder makes frame 0 of the video of the first latent frame alone, as those of Wan,
                LTX and HunyuanVideo do. Else each latent frame covers equally many, as in CogVideoX where the video has
                an even number of frames. None tells by the numbers of frames.
            smooth: interpolate linearly in time between the middle frames of what neighbouring maps cover.

        Raises ValueError for the map of an image, and for ``causal=True`` with numbers of frames that do not fit.
        """
        if not self.is_video:
            raise ValueError("this is the map of an image, which has no frames: use overlay()")
        groups = self._groups(causal)
        values = torch.from_numpy(self._shown())
        values = between_frames(values, groups) if smooth else values[groups]
        return HeatFilm(values.numpy(), self.pictures, self.word, tuple(groups))

    def numpy(self) -> Float[np.ndarray, "*frames h w"]:
        """Return the values as an array of numpy, in CPU memory; those in half precision as float32.

        >>> import torch
        >>> import sdprobe
        >>> sdprobe.HeatMap(torch.eye(2)).numpy()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        """
        own = self.values.detach().cpu()
        return (own.float() if own.dtype in (torch.float16, torch.bfloat16) else own).numpy()

    def resize(self: Kind, size: tuple[int, int], mode: str = "bicubic") -> Kind:
        """Return the map at another size ``(h, w)``: ``"bicubic"`` as in DAAM, ``"bilinear"``, ``"area"`` or others.

        Of a video, each frame is resized.
        """
        try:
            height, width = map(operator.index, size)
        except (TypeError, ValueError):
            raise ValueError(f"a map's size is (height, width), such as (64, 64), not {size!r}") from None
        if height < 1 or width < 1:
            raise ValueError(f"a map's height and width are 1 or more, not {height} and {width}")
        size = (height, width)
        return replace(self, values=resize(self.values.float(), size, mode))

    def normalized(self: Kind) -> Kind:
        """Return the map scaled from 0 at its minimum to 1 at its maximum; a constant map becomes 0.

        Of a video, minimum and maximum are those of all its frames, so that frames can be compared.
        """
        own = self.values if self.values.is_floating_point() else self.values.float()
        low, width = own.min(), own.max() - own.min()
        return replace(self, values=(own - low) / torch.where(width > 0, width, 1))

    def overlay(self, ax: Any = None) -> Figure:
        """Plot the map over its image, on a new figure or on given axes; that of a video as the sheet of its `film`.

        Raises ValueError for axes and the map of a video.
        """
        if not self.is_video:
            return plot.overlay(self._image(), self._shown(), self.word, ax)
        if ax is not None:
            raise ValueError("one pair of axes shows one frame of a video: use heat.frame(number).overlay(ax)")
        return self.film().sheet()

    def to_image(self) -> Image.Image:
        """Return the normalized map as a colour image, at the image's size if there is one.

        Raises ValueError for the map of a video.
        """
        self._refuse_video("one image shows one frame of a video: use heat.frame(number).to_image(), or heat.film()")
        return plot.colored(self._shown())

    def cell(self) -> plot.Cell:
        """Return the map as a cell of `sdprobe.plot.sheet`. Raises ValueError for the map of a video."""
        self._refuse_video("one cell shows one frame of a video: use heat.film().cells([number])")
        return self._image(), self._shown()

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.overlay().savefig(file, format="png")
        return file.getvalue()

    def _groups(self, causal: bool | None = None) -> list[int]:
        """The frame of the map that each frame of the video belongs to; without a video, each to itself."""
        return frame_groups(len(self.pictures) or self.frames, self.frames, causal)

    def _image(self) -> Image.Image | None:
        return self.pictures[0] if self.pictures else None

    def _refuse_video(self, said: str) -> None:
        if self.is_video:
            raise ValueError(said)

    def _shown(self) -> Any:
        size = (self.pictures[0].height, self.pictures[0].width) if self.pictures else self.size
        shown = self.resize(size).values.detach().clamp_min(0)
        return cast(Any, replace(self, values=shown).normalized().values.cpu().numpy())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.word!r}, {'×'.join(map(str, self.values.shape))})"
