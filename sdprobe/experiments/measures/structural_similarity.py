"""`StructuralSimilarity`: how far the structure of the untouched picture is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdprobe.core.run import Run
from sdprobe.experiments.measures.frames_of import frames_of


@dataclass(frozen=True)
class StructuralSimilarity:
    """The mean structural similarity (SSIM) to the untouched picture: 1 for the same picture, about 0 for another.

    It is computed by scikit-image with the paper's window and constants, in each of the three colour channels; the mean
    of these is returned, and of a video the mean over its frames.

    >>> import sdprobe
    >>> run, other = (
    ...     sdprobe.sample(sdprobe.load(), "a red circle", steps=2, seed=seed, progress=False) for seed in (0, 1)
    ... )
    >>> StructuralSimilarity()(run, run), StructuralSimilarity()(run, other) < 0.9
    (1.0, True)

    Raises:
        ImportError: without scikit-image.
        ValueError: for pictures of less than 11 pixels in height or width.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", section III,
    eq. 13 and 17, with a Gaussian window of 11×11 and a deviation of 1.5.
    """

    @property
    def name(self) -> str:
        return "structural similarity"

    def __call__(self, run: Run, untouched: Run) -> float:
        similarity = _structural_similarity()
        pictures = [[np.asarray(picture.convert("RGB")) for picture in frames_of(own)] for own in (run, untouched)]
        if min(pictures[0][0].shape[:2]) < 11:
            raise ValueError(f"structural similarity has a window of 11×11, and pictures are {frames_of(run)[0].size}")
        # What scikit-image's documentation names as the paper's own.
        paper = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        pairs = zip(*pictures, strict=True)
        return float(np.mean([similarity(*pair, channel_axis=-1, data_range=255, **paper) for pair in pairs]))


def _structural_similarity() -> Any:
    """Import when it is measured: scikit-image is an extra."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError('structural similarity needs scikit-image: pip install "sdprobe[analysis]"') from error
    return structural_similarity
