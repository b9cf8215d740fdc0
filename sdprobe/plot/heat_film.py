"""`HeatFilm`: the heat map of a video over its frames, as GIF, MP4 or contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from sdprobe.files.video_files import whole_side, write_gif, write_mp4
from sdprobe.plot import figures as plot


@dataclass(frozen=True, eq=False)
class HeatFilm:
    """A heat map over each frame of a video, all on one scale. Made by `HeatMap.film`.

    >>> import tempfile
    >>> import torch
    >>> import sdprobe
    >>> film = sdprobe.HeatMap(torch.eye(4).reshape(4, 2, 2), "word").film()
    >>> film
    HeatFilm('word', 4 frames)
    >>> film.gif(tempfile.mkdtemp() + "/word.gif", height=32).name
    'word.gif'
    >>> [ax.get_title() for ax in film.sheet(columns=2).axes]
    ['frame 0', 'frame 3']

    Attributes:
        values: ``[frames, H, W]`` in [0, 1], at the size of the frames: 0 and 1 are the smallest and the largest value
            of the whole video, so that frames can be compared.
        pictures: the frames of the video; none where the map has none, and the map is drawn alone.
        word: the word it is the map of.
        groups: the frame of the map that each frame of the video belongs to.
    """

    values: Float[np.ndarray, "frames h w"] = field(repr=False)
    pictures: tuple[Image.Image, ...] = field(repr=False)
    word: str
    groups: tuple[int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def frames(self, height: int = 256) -> list[Image.Image]:
        """Return the map over each frame.

        Args:
            height: in pixels; the width follows. Both sides are filled up with white to multiples of 16.
        """
        return [_framed(own, height) for own in self._colours()]

    def gif(self, path: str | Path, fps: int = 8, height: int = 256) -> Path:
        """Write the film as a GIF that repeats; return its path.

        Args:
            path: the file.
            fps: frames per second, 1 to 50.
            height: height of the frames in pixels.
        """
        return write_gif(self.frames(height), Path(path), fps)

    def mp4(self, path: str | Path, fps: int = 8, height: int = 256) -> Path:
        """Write the film as MP4; return its path. Raises ImportError without ``pip install 'sdprobe[video]'``.

        Args:
            path: the file.
            fps: frames per second.
            height: height of the frames in pixels.
        """
        return write_mp4(self.frames(height), Path(path), fps)

    def sheet(self, columns: int = 8) -> Figure:
        """Plot frames of the video, the map over them below, at ``columns`` frames from the first to the last."""
        chosen = evenly(len(self), columns)
        rows = [self.cells(chosen)]
        names = [self.word] if self.word else []
        if self.pictures:
            rows, names = [[self.pictures[i] for i in chosen], *rows], ["video", self.word]
        return plot.sheet(rows, rows=names, columns=[f"frame {i}" for i in chosen])

    def cells(self, chosen: Sequence[int]) -> list[plot.Cell]:
        """Return the map over some frames as cells of `sdprobe.plot.sheet`."""
        return [(self.pictures[i] if self.pictures else None, self.values[i]) for i in chosen]

    def _colours(self) -> list[Image.Image]:
        if not self.pictures:
            return [plot.colored(own) for own in self.values]
        both = zip(self.pictures, self.values, strict=True)
        colours = (plot.laid_over(picture, own) for picture, own in both)
        return [Image.fromarray((own * 255).round().clip(0, 255).astype(np.uint8)) for own in colours]

    def __repr__(self) -> str:
        return f"HeatFilm({self.word!r}, {len(self)} frames)"


def evenly(total: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 0, evenly chosen, with the first and the last.

    >>> evenly(9, 3), evenly(2, 8)
    ([0, 4, 8], [0, 1])
    """
    count = min(most, total)
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]


def _framed(picture: Image.Image, height: int) -> Image.Image:
    width = round(height * picture.width / picture.height)
    how = Image.Resampling.NEAREST if height >= 4 * picture.height else Image.Resampling.BICUBIC
    frame = Image.new("RGB", (whole_side(width), whole_side(height)), "white")
    frame.paste(picture.resize((width, height), how), (0, 0))
    return frame
