"""`Similarity`: cosines and probabilities of images and texts, as a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import fill
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.data_frame import data_frame, each_cell
from sdprobe.plot import HEAT
from sdprobe.plot.table import as_text

INCH = 0.62  # a cell of the matrix
MOST = 400  # up to this number of cells, their values are printed


@dataclass(frozen=True, eq=False)
class Similarity:
    """The similarity of each image to each text. Prints as a table, with a column per image.

    >>> import sdprobe
    >>> from sdprobe.shapes import Object, render
    >>> pictures = [render([Object(shape, "red", (32, 32), 15)]).image for shape in ("circle", "star")]
    >>> near = sdprobe.clip.similarity(pictures, ["a red circle", "a blue circle", "a red star"])
    >>> near
    cosine (probability)  picture 0     picture 1
    a red circle          ...
    a blue circle         ...
    a red star            ...
    >>> near.best
    ('a red circle', 'a red star')

    Attributes:
        cosine: ``[images, texts]``, in [-1, 1].
        logit_scale: the factor from cosines to logits.
        texts: the texts, in the order of the columns.
        images: the images as given.
    """

    cosine: Float[Tensor, "images texts"]
    logit_scale: Float[Tensor, ""]
    texts: tuple[str, ...]
    images: tuple[Any, ...] = field(repr=False)

    @property
    def logits(self) -> Float[Tensor, "images texts"]:
        """The cosines times the logit scale: ``logits_per_image`` of transformers."""
        return self.logit_scale * self.cosine

    @property
    def probabilities(self) -> Float[Tensor, "images texts"]:
        """Softmax of the logits over the texts: each text's probability for an image, if one is correct."""
        return self.logits.softmax(dim=1)

    @property
    def best(self) -> tuple[str, ...]:
        """The nearest text of each image."""
        return tuple(self.texts[i] for i in self.cosine.argmax(dim=1).tolist())

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each image and text.

        >>> import sdprobe
        >>> from sdprobe.shapes import scene
        >>> table = sdprobe.clip.similarity([scene(0).image], ["a red circle", "a star"]).to_pandas()
        >>> list(table), table.text.tolist()
        (['image', 'text', 'cosine', 'probability'], ['a red circle', 'a star'])

        Raises ImportError if pandas is not installed.
        """
        found = {"cosine": self.cosine, "probability": self.probabilities}
        numbers = {name: x.detach().float().cpu().numpy() for name, x in found.items()}
        axes = {"image": np.arange(len(self.images)), "text": np.array(self.texts, dtype=object)}
        return data_frame(each_cell(axes, numbers))

    def plot(self, values: Literal["cosine", "probabilities"] = "cosine") -> Figure:
        """Plot the matrix: a row per text, a column per image, after Radford et al. 2021.

        >>> import sdprobe
        >>> from sdprobe.shapes import scene
        >>> near = sdprobe.clip.similarity([scene(k).image for k in range(3)], ["a red circle", "a star"])
        >>> figure = near.plot("probabilities")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['a red circle', 'a star']
        """
        if values not in ("cosine", "probabilities"):
            raise ValueError(f"values are 'cosine' or 'probabilities', not {values!r}")
        return _matrix(getattr(self, values).detach().float().cpu().numpy().T, self, values)

    def __repr__(self) -> str:
        shown = min(len(self.images), 6)
        cosine, probability = (x.detach().float()[:shown].T.tolist() for x in (self.cosine, self.probabilities))
        head = ["cosine (probability)", *(f"picture {i}" for i in range(shown))]
        rows = [
            [text, *(f"{c:5.2f} ({p:.2f})" for c, p in zip(*numbers, strict=True))]
            for text, *numbers in zip(self.texts, cosine, probability, strict=True)
        ]
        lines = as_text([head, *rows])
        hidden = len(self.images) - shown
        return "\n".join([*lines, f"and {hidden} more pictures"] if hidden else lines)


def _matrix(values: Float[np.ndarray, "texts images"], near: Similarity, name: str) -> Figure:
    texts, images = values.shape
    names = [fill(text, 36) for text in near.texts]
    wide = 0.075 * max(len(line) for name in names for line in name.split("\n")) + 0.3
    figure = Figure(figsize=(INCH * images + wide, INCH * (texts + 1.1)), layout="compressed")
    ax = figure.subplots()
    low, high = (0.0, 1.0) if name == "probabilities" else (float(values.min()), float(values.max()))
    ax.imshow(values, cmap=HEAT, vmin=low, vmax=high)
    for j, image in enumerate(near.images):
        shown = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0) if isinstance(image, Tensor) else image
        ax.imshow(np.asarray(shown), extent=(j - 0.47, j + 0.47, -0.56, -1.5))
    for i, j in np.ndindex(*values.shape) if values.size <= MOST else ():
        dark = values[i, j] < low + 0.6 * (high - low)
        ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color="w" if dark else "k", fontsize=8)
    ax.set(xlim=(-0.5, images - 0.5), ylim=(texts - 0.5, -1.55), xticks=[], yticks=range(texts))
    ax.set_yticklabels(names, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure
