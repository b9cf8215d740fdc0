"""What `WordGradients` and `ConceptOutputs` recorded of words and concepts, as labelled arrays: one for each grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.grid import Grid, named_grid
from sdprobe.observe.concept_outputs import ConceptOutputs
from sdprobe.observe.word_gradients import WordGradients
from sdprobe.runs.export.labelled_array import Coordinate, LabelledArray, along, as_numpy

Sums = Mapping[Grid, Float[Tensor, "images words places"]]

GRADIENTS = {
    "norm": ("norms", "norm of the gradient of the score with respect to a word, as a place reads it; mean over calls"),
    "product": ("products", "gradient times key and value, summed over sites and heads; mean over steps"),
    "path": ("slopes", "contribution of a place along the path, summed over sites and heads; mean over steps"),
}


def gradient_arrays(hook: WordGradients, images: Mapping[str, Coordinate]) -> Iterator[LabelledArray]:
    """Return norms, products and contributions along a path; and the changes of the score, where there is a path.

    Args:
        hook: a run's copy.
        images: the coordinate of the dimension ``"image"``.
    """
    coords = _named("word", hook.names) | dict(images)
    steps = max(len(hook.indices), 1)
    for kind, (name, said) in GRADIENTS.items():
        sums: Sums = getattr(hook, name)
        counts = {grid: hook.counts[grid] if kind == "norm" else steps for grid in sums}
        yield from _by_grid(f"word_gradient_{kind}", "word", sums, counts, hook.names, coords, said)
    if hook.path and hook.indices:
        values = _known(as_numpy(hook.changes / steps), hook.names)
        attrs = {"long_name": "change of the score from the baseline to a word; mean over steps"}
        yield LabelledArray("word_gradient_change", ("image", "word"), values, coords, attrs)


def concept_arrays(hook: ConceptOutputs, images: Mapping[str, Coordinate]) -> Iterator[LabelledArray]:
    """Return the mean products of the outputs of places and concepts, and of their softmax over the concepts.

    Args:
        hook: a run's copy.
        images: the coordinate of the dimension ``"image"``.
    """
    coords = _named("concept", hook.names) | dict(images)
    said = "product of the outputs of attention of a place and a concept"
    yield from _by_grid("concept_score", "concept", hook.scores, hook.counts, hook.names, coords, said)
    said = "softmax over the concepts of the products of their outputs and that of a place"
    yield from _by_grid("concept_share", "concept", hook.shares, hook.counts, hook.names, coords, said)


def _by_grid(
    name: str,
    of: str,
    sums: Sums,
    counts: Mapping[Grid, int],
    names: Sequence[Sequence[Any]],
    coords: Mapping[str, Coordinate],
    said: str,
) -> Iterator[LabelledArray]:
    """Return the means of each grid, the largest first, whose places have dimensions without its name."""
    largest = max(sums, key=math.prod, default=None)
    for grid in sorted(sums, key=math.prod, reverse=True):
        scope = "" if grid == largest else f"_{named_grid(grid)}"
        places = tuple(f"{axis}{scope}" for axis in ("frame", "y", "x")[-len(grid) :])
        values = _known(as_numpy(sums[grid] / counts[grid]), names)
        own = dict(coords)
        for dim, size in zip(places, grid, strict=True):
            own |= along(dim, range(size))
        attrs = {"long_name": said, "divided_by": counts[grid]}
        shaped = values.reshape(*values.shape[:2], *grid)
        yield LabelledArray(f"{name}_{named_grid(grid)}", ("image", of, *places), shaped, own, attrs)


def _named(of: str, names: Sequence[Sequence[Any]]) -> dict[str, Coordinate]:
    """Return the words of each image; other images may have more, and those have an empty text there."""
    most = max(map(len, names), default=0)
    texts = [[str(own) for own in each] + [""] * (most - len(each)) for each in names]
    return along(of, range(most)) | {f"{of}_text": (("image", of), np.array(texts).reshape(len(names), most))}


def _known(values: np.ndarray, names: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return numbers with NaN where an image has no word of this number."""
    found = np.array(values, dtype=np.float32)
    for image, each in enumerate(names):
        found[image, len(each) :] = np.nan
    return found
