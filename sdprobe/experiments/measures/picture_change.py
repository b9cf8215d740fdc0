"""`PictureChange`: how far the pixels are from those of the untouched picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.experiments.measures.change_within import ChangeWithin
from sdprobe.experiments.measures.frames_of import frames_of


@dataclass(frozen=True)
class PictureChange(ChangeWithin):
    """The mean absolute difference to the untouched picture, over pixels and channels, 0 to 255; of a video, over its
    frames too.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> from sdprobe.experiments.measures import Detected, Outside
    >>> change, outside = PictureChange(Detected("circle")), PictureChange(Outside(Detected("circle")))
    >>> change.name, outside.name
    ('picture change in circle', 'picture change outside circle')
    >>> swap = {"red": [sdprobe.ReplaceToken("blue", with_="red")]}
    >>> result = experiments.experiment(
    ...     sdprobe.load(), "a blue circle", swap, [change, outside], steps=4, progress=False
    ... )
    >>> inside, around = (row["value"] for row in result.rows if row["condition"] == "red")
    >>> inside > 2 * around
    True

    Args:
        within: where; None for the whole picture.

    It returns None where the picture has no such region. Raises TypeError for what is no region.
    """

    what = "picture change"

    def change(self, run: Run, untouched: Run, mask: Bool[Tensor, "*frames h w"]) -> float:
        """Return the change where a mask at the picture's size, of a video for each of its frames, is True."""
        pixels, others = (_pixels(own) for own in (run, untouched))
        return float(np.abs(pixels - others)[mask.expand(pixels.shape[:-1]).numpy()].mean())


def _pixels(run: Run) -> Float[np.ndarray, "frames h w 3"]:
    return np.stack([np.asarray(own.convert("RGB"), dtype=np.float64) for own in frames_of(run)])
