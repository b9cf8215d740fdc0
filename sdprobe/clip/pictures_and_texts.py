"""How near pictures are to texts, by CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sdprobe.clip.similarity_table import Similarity
from sdprobe.core.concept import Concept
from sdprobe.model.base import Model
from sdprobe.model.clip_model import Clip, Pictures, given_or_embedded
from sdprobe.model.text.vocabulary import Vocabulary


def similarity(images: Pictures, texts: str | Sequence[str], clip: Clip | str | Path | None = None) -> Similarity:
    """Cosines between pictures and texts, and the softmax over the texts.

    >>> import sdprobe
    >>> from sdprobe.shapes import scene
    >>> near = sdprobe.clip.similarity(scene(0).image, [scene(0).caption, "a black cross"])
    >>> near.cosine.shape, near.best[0] == scene(0).caption
    (torch.Size([1, 2]), True)

    Args:
        images: a PIL picture, a uint8 array ``[H, W, 3]``, several of them (a run's ``images``), or a
            floating-point tensor ``[images, 3, H, W]`` in [0, 1], which gradients of the result then reach.
        texts: one text or several.
        clip: what `sdprobe.clip.load` gives, or anything it takes; None for the embedded model's CLIP.

    Raises:
        TypeError: for what is no picture or no text.
        ValueError: for a tensor that is not ``[images, 3, H, W]`` in [0, 1], and where there is nothing to compare.

    Source: Radford et al. 2021, Section 2 and Figure 3.
    """
    own = given_or_embedded(clip)
    cosine = own.image_features(images) @ own.text_features(texts).T
    several = (texts,) if isinstance(texts, str) else tuple(texts)
    return Similarity(cosine, own.logit_scale, several, _one_by_one(images))


def classify(
    images: Pictures, labels: Sequence[str], template: str = "a {}", clip: Clip | str | Path | None = None
) -> Similarity:
    """Zero-shot classification: which of some labels a picture goes with.

    >>> import sdprobe
    >>> from sdprobe.shapes import COLOURS, Object, render
    >>> pictures = [render([Object("ring", colour, (32, 32), 15)]).image for colour in ("blue", "green")]
    >>> sdprobe.clip.classify(pictures, list(COLOURS), template="a {} shape").best
    ('blue', 'green')

    Args:
        images: as for `similarity`.
        labels: two or more.
        template: what is said of a label, with ``{}`` in the label's place.
        clip: as for `similarity`.

    Returns:
        The similarity of each picture to each label put into the template; its texts are the labels.

    Raises:
        ValueError: for a template without ``{}``, or fewer than two labels.

    Source: Radford et al. 2021, Section 3.1.
    """
    if isinstance(labels, str) or len(labels) < 2:
        raise ValueError(f"a choice is between two labels or more, in a list; these are {labels!r}")
    if "{}" not in template:
        raise ValueError(f"the template {template!r} has no {{}} for the label")
    near = similarity(images, [template.replace("{}", label) for label in labels], clip)
    return replace(near, texts=tuple(labels))


@dataclass(frozen=True, eq=False)
class NearestTokens:
    """The tokens nearest to some vectors, nearest first. It prints as a line per vector.

    Attributes:
        tokens: their spellings, as the vocabulary has them (``</w>`` ends a word), for each vector.
        ids: ``[vectors, k]``, their numbers.
        cosine: ``[vectors, k]``.
    """

    tokens: tuple[tuple[str, ...], ...]
    ids: Int[Tensor, "vectors k"]
    cosine: Float[Tensor, "vectors k"]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.tokens)

    def __repr__(self) -> str:
        lines = (zip(*row, strict=True) for row in zip(self.tokens, self.cosine.tolist(), strict=True))
        return "\n".join("  ".join(f"{token} {near:.2f}" for token, near in line) for line in lines)


def nearest_tokens(
    vector: Float[Tensor, "*vectors width"] | Concept, k: int = 5, model: Model | Clip | Any | None = None
) -> NearestTokens:
    """The tokens whose vectors in the text encoder's table are nearest to a vector, by cosine.

    What is a learned concept close to? What lies between two words?

    >>> import sdprobe
    >>> red, yellow = (sdprobe.clip.token_vectors(word)[0] for word in ("red", "yellow"))
    >>> sorted(sdprobe.clip.nearest_tokens(red + yellow, k=3).tokens[0])
    ['orange</w>', 'red</w>', 'yellow</w>']
    >>> model = sdprobe.load()
    >>> sdprobe.clip.nearest_tokens(sdprobe.clip.token_vectors("ring", model), k=1, model=model)
    ring</w> 1.00

    Args:
        vector: ``[width]``, ``[vectors, width]``, or a learned `Concept` (its vectors for the first encoder). Token
            vectors go into the text encoder; what comes out of it (`pooled`, `unpooled`, features) lives in other
            spaces, even where the width is the same.
        k: how many, 1 to the size of the vocabulary.
        model: whose table: a CLIP as for `similarity`; a model of `sdprobe.load` or a live pipeline, whose first
            text encoder is taken; None for the embedded model's CLIP.

    Raises:
        ValueError: for a vector of another width than the table's, or a ``k`` there are not as many tokens for.

    Source: Gal et al. 2023, An Image is Worth One Word, whose learned vectors live in this table.
    """
    vector = vector.vectors["text_encoder"] if isinstance(vector, Concept) else vector
    vocabulary = Vocabulary(given_or_embedded(None) if model is None else model)
    table = vocabulary.all()
    if vector.ndim not in (1, 2) or vector.shape[-1] != table.shape[1]:
        raise ValueError(
            f"a vector of this table is [{table.shape[1]}], and several are [vectors, {table.shape[1]}]; this one is "
            f"{list(vector.shape)}"
        )
    if not 1 <= k <= len(table):
        raise ValueError(f"k is how many tokens to name, 1 to {len(table)}, not {k}")
    unit = F.normalize(torch.atleast_2d(vector.detach()).to(table.device, torch.float32), dim=-1)
    cosine, ids = (unit @ F.normalize(table.float(), dim=-1).T).topk(k)
    return NearestTokens(tuple(vocabulary.spelt(row) for row in ids.tolist()), ids, cosine)


def token_vectors(word: str, model: Model | Clip | Any | None = None) -> Float[Tensor, "tokens width"]:
    """The vectors of a word's tokens in the text encoder's table: what the encoder is given, before positions.

    >>> import sdprobe
    >>> sdprobe.clip.token_vectors("checkered").shape
    torch.Size([2, 96])

    Args:
        word: a word, a phrase, or the name of a learned concept the model has loaded.
        model: as for `nearest_tokens`.
    """
    return Vocabulary(given_or_embedded(None) if model is None else model).of(word)


def pooled(texts: str | Sequence[str], clip: Clip | str | Path | None = None) -> Float[Tensor, "texts width"]:
    """One vector for a whole text: the text tower's output at the end token, after its last norm.

    Projected and brought to unit length, it is the text's place in the common space. It comes before the projection
    here, where it lies in one space with `unpooled`.

    >>> import sdprobe
    >>> clip = sdprobe.clip.load()
    >>> states, end = sdprobe.clip.unpooled("a red circle"), clip.read("a red circle").positions("<end>")
    >>> bool((sdprobe.clip.pooled("a red circle") == states[:, end[0]]).all())
    True

    Source: Radford et al. 2021, Section 2.4.
    """
    return given_or_embedded(clip).pooled(texts)


def unpooled(texts: str | Sequence[str], clip: Clip | str | Path | None = None) -> Float[Tensor, "texts tokens width"]:
    """A vector for every token, padding included: what Stable Diffusion is conditioned on.

    Attention in the text tower is causal, so the vector at a token knows of the words up to it and of none after.

    >>> import sdprobe
    >>> red, blue = sdprobe.clip.unpooled(["a red circle", "a red star"])
    >>> (red == blue).all(dim=-1)[:5]
    tensor([ True,  True,  True, False, False])
    """
    return given_or_embedded(clip).unpooled(texts)


def info_nce(
    image_features: Float[Tensor, "batch dim"],
    text_features: Float[Tensor, "batch dim"],
    logit_scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """The contrastive loss CLIP is trained with: each picture is to find its text in the batch, and the reverse.

    The mean of the two cross-entropies, over texts and over pictures; the i-th picture belongs to the i-th text.
    At chance it is log(batch).

    >>> import sdprobe
    >>> from sdprobe.shapes import scene
    >>> clip, scenes = sdprobe.clip.load(), [scene(k) for k in range(8)]
    >>> images = clip.image_features([own.image for own in scenes])
    >>> texts = clip.text_features([own.caption for own in scenes])
    >>> loss = sdprobe.clip.info_nce(images, texts, clip.logit_scale)
    >>> bool(loss < sdprobe.clip.info_nce(images, texts.flip(0), clip.logit_scale))
    True

    Args:
        image_features: ``[batch, dim]``, of any length: unit vectors are made of them.
        text_features: ``[batch, dim]``.
        logit_scale: what cosines are multiplied with, ``clip.logit_scale``: exp(t) in the paper's Figure 3, whose t is
            the parameter of that name in transformers.

    Raises:
        ValueError: where the two batches are not ``[batch, dim]`` of the same size.

    Source: Radford et al. 2021, Figure 3; van den Oord et al. 2018, eq. 4.
    """
    if image_features.ndim != 2 or image_features.shape != text_features.shape or not len(image_features):
        raise ValueError(
            f"pictures and their texts are two batches [batch, dim] of one size; these are "
            f"{list(image_features.shape)} and {list(text_features.shape)}"
        )
    logits = logit_scale * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _one_by_one(images: Pictures) -> tuple[Any, ...]:
    several = isinstance(images, (Tensor, Sequence))
    return tuple(images) if several else (images,)  # type: ignore[arg-type]
