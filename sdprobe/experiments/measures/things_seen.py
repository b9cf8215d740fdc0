"""`Thing` and `things_in`: what the detector of the embedded model's world sees in the picture of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sdprobe.core.picture_of import is_of_videos
from sdprobe.core.run import Run
from sdprobe.shapes import COLOURS, SHAPES, Found, detect
from sdprobe.shapes.drawing import SIZE, Image


@dataclass(frozen=True)
class Thing:
    """A thing of a colour, of a shape, or of both; what is None may be any.

    >>> Thing.of("red circle")
    Thing(colour='red', shape='circle')
    >>> Thing.of("star")
    Thing(colour=None, shape='star')
    """

    colour: str | None = None
    shape: str | None = None

    @classmethod
    def of(cls, words: str) -> Thing:
        """Return the thing that words name. Raises ValueError for anything but a colour, a shape, or both in order."""
        parts = words.split()
        colour = parts.pop(0) if parts and parts[0] in COLOURS else None
        shape = parts.pop(0) if parts and parts[0] in SHAPES else None
        if parts or (colour is None and shape is None):
            raise ValueError(
                f"{words!r} names nothing that can be detected: a thing is a colour ({', '.join(COLOURS)}), a shape "
                f"({', '.join(SHAPES)}), or both, as in 'red circle'"
            )
        return cls(colour, shape)

    def fits(self, found: Found) -> bool:
        """Whether this names what was found."""
        return self.colour in (None, found.colour) and self.shape in (None, found.shape)

    def seen(self, found: Sequence[Found]) -> Found | None:
        """Return the first that this names, which is the largest; None if there is none."""
        return next((own for own in found if self.fits(own)), None)


def refuse_unknown_words(words: str) -> None:
    """Raise ValueError for words of a thing that cannot be detected, unless a case has still to fill them."""
    if "{" not in words:
        Thing.of(words)


def refuse_unknown(word: str, known: Collection[str], kind: str) -> None:
    """Raise ValueError, with the choices, for a word that is not known, unless a case has still to fill it."""
    if "{" not in word and word not in known:
        raise ValueError(f"{word!r} is no {kind} that can be detected: choose from {', '.join(known)}")


def said(words: str) -> str:
    """Return words as the name of a measure has them, without braces."""
    return words.replace("{", "").replace("}", "")


def things_in(run: Run) -> tuple[Found, ...]:
    """Return the things in the picture of a run, large ones first.

    Raises ValueError for a picture of another size than the embedded model's.
    """
    return _found(pixels_of(run).tobytes())


def pixels_of(run: Run) -> Image:
    """Return the picture of a run as ``[64, 64, 3]``, uint8.

    Raises ValueError for a picture of another size, and for a video.
    """
    if is_of_videos(run):
        raise ValueError(
            "the detector sees coloured shapes in the pictures that the embedded model makes, and this run is of a "
            "video: measure it with TextSimilarity, PictureChange or a function of your own"
        )
    picture = run.images[0].convert("RGB")
    if picture.size != (SIZE, SIZE):
        raise ValueError(
            f"the detector sees coloured shapes in pictures of {SIZE}×{SIZE}, which the embedded model makes, and this "
            f"one is {picture.height}×{picture.width}: run sdprobe.load() at its own size, or measure other pictures "
            f"with TextSimilarity, PictureChange or a function of your own"
        )
    return np.asarray(picture, dtype=np.uint8)


@lru_cache(maxsize=64)  # several measures look at one picture
def _found(pixels: bytes) -> tuple[Found, ...]:
    found = tuple(detect(np.frombuffer(pixels, dtype=np.uint8).reshape(SIZE, SIZE, 3)))
    for own in found:
        own.mask.setflags(write=False)  # it is shared by all who ask
    return found
