"""`embedded`: pictures as data addresses that together stay within a number of bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL.Image import Image, Resampling

from sdprobe.plot.notebook import as_png

QUALITY = 90
SMALLEST = 128  # pixels of the longer side, below which pictures are not made smaller


@dataclass(frozen=True)
class EmbeddedPictures:
    """Pictures in a page.

    Args:
        sources: a data address for each.
        changed: in words, how they differ from the pictures given; empty if they do not.
    """

    sources: tuple[str, ...]
    changed: str

    @property
    def size(self) -> int:
        """The bytes that all take in the page."""
        return sum(map(len, self.sources))


def embedded(pictures: Sequence[Image], budget: int) -> EmbeddedPictures:
    """Return pictures as PNG if they fit the budget, else as JPEG, and if need be smaller, as small as 128 pixels.

    >>> from PIL import Image
    >>> picture = Image.effect_noise((256, 256), 80)
    >>> embedded([picture], 200_000).changed
    ''
    >>> embedded([picture], 80_000).changed, embedded([picture], 30_000).changed
    ('as JPEG of quality 90', 'as JPEG of quality 90, made smaller: 128×128 of 256×256 pixels')

    Args:
        pictures: any number.
        budget: bytes in the page.
    """
    if not pictures:
        return EmbeddedPictures((), "")
    ways = _ways(max(max(own.size) for own in pictures))
    for by in ways:
        # Of many large pictures, one tells how large all will be, about: those that are far too large are not made.
        one = len(_written(pictures[len(pictures) // 2], by))
        if one * len(pictures) > 1.5 * budget and by != ways[-1]:
            continue
        found = EmbeddedPictures(tuple(_written(own, by) for own in pictures), _said(pictures[0], by))
        if found.size <= budget:
            break
    return found


def least_size(picture: Image) -> int:
    """Return the bytes that a picture takes in a page at least, as `embedded` makes it."""
    return min(len(_written(picture, 0)), len(_written(picture, _ways(max(picture.size))[-1])))


def _ways(side: int) -> list[int]:
    """The ways to embed pictures of a longest side of so many pixels: 0 is PNG; else JPEG, with sides divided by it."""
    return [0, *(by for by in (1, 2, 4, 8, 16, 32) if by == 1 or side // by >= SMALLEST)]


def _written(picture: Image, by: int) -> str:
    return _jpeg(picture, by) if by else _png(picture)


def _png(picture: Image) -> str:
    return "data:image/png;base64," + b64encode(as_png(picture)).decode("ascii")


def _jpeg(picture: Image, by: int) -> str:
    size = (max(picture.width // by, 1), max(picture.height // by, 1))
    smaller = picture.convert("RGB") if by == 1 else picture.convert("RGB").resize(size, Resampling.LANCZOS)
    smaller.save(file := BytesIO(), format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode("ascii")


def _said(picture: Image, by: int) -> str:
    if not by:
        return ""
    smaller = f", made smaller: {picture.width // by}×{picture.height // by} of {picture.width}×{picture.height} pixels"
    return f"as JPEG of quality {QUALITY}{smaller if by > 1 else ''}"
