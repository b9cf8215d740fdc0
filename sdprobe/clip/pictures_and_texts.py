"""`similarity`, `classify`, `nearest_tokens` and others: compare images, texts and tokens with CLIP."""

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
    """Return the cosines between images and texts, and the softmax over the texts.

    >>> import sdprobe
    >>> from sdprobe.shapes import scene
    >>> near = sdprobe.clip.similarity(scene(0).image, [scene(0).caption, "a black cross"])
    >>> near.cosine.shape, near.best[0] == scene(0).caption
    (torch.Size([1, 2]), True)

    Args:
        images: a PIL image, a uint8 array ``[H, W, 3]``, several of them (a run's ``images``), or a floating-point
            tensor ``[images, 3, H, W]`` in [0, 1], for which the result is differentiable.
        texts: one text or several.
        clip: the result of `sdprobe.clip.load`, or anything that it takes; None for the embedded model's CLIP.

    Raises:
        TypeError: for something that is not an image or a text.
        ValueError: for a tensor that is not ``[images, 3, H, W]`` in [0, 1], and if there are no images or no texts.

    Source: Radford et al. 2021, Section 2 and Figure 3.
    """
    own = given_or_embedded(clip)
    cosine = own.image_features(images) @ own.text_features(texts).T
    several = (texts,) if isinstance(texts, str) else tuple(texts)
    return Similarity(cosine, own.logit_scale, several, _one_by_one(images))


def classify(
    images: Pictures, labels: Sequence[str], template: str = "a {}", clip: Clip | str | Path | None = None
) -> Similarity:
    """Zero-shot classification: compare images with labels.

    >>> import sdprobe
    >>> from sdprobe.shapes import COLOURS, Object, render
    >>> pictures = [render([Object("ring", colour, (32, 32), 15)]).image for colour in ("blue", "green")]
    >>> sdprobe.clip.classify(pictures, list(COLOURS), template="a {} shape").best
    ('blue', 'green')

    Args:
        images: as for `similarity`.
        labels: two or more.
        template: the text for a label, with ``{}`` for the label.
        clip: as for `similarity`.

    Returns:
        The similarity of each image to the template with each label; its texts are the labels.

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
    """The tokens nearest to some vectors, nearest first. Prints one line per vector.

    Attributes:
        tokens: the tokens of each vector, as the vocabulary spells them (``</w>`` ends a word).
        ids: ``[vectors, k]``, their numbers in the vocabulary.
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
    """Return the tokens whose embeddings in the text encoder's table are nearest to a vector, by cosine.

    Use it, for example, to see which words are similar to a learned concept, or between two words.

    >>> import sdprobe
    >>> red, yellow = (sdprobe.clip.token_vectors(word)[0] for word in ("red", "yellow"))
    >>> sorted(sdprobe.clip.nearest_tokens(red + yellow, k=3).tokens[0])
    ['orange</w>', 'red</w>', 'yellow</w>']
    >>> model = sdprobe.load()
    >>> sdprobe.clip.nearest_tokens(sdprobe.clip.token_vectors("ring", model), k=1, model=model)
    ring</w> 1.00

    Args:
        vector: ``[width]``, ``[vectors, width]``, or a learned `Concept` (its vectors for the first encoder). The table
            holds inputs of the text encoder; its outputs (`pooled`, `unpooled`, features) are in other spaces, even if
            their width is the same.
        k: how many tokens, 1 to the size of the vocabulary.
        model: the model with the table: a CLIP as for `similarity`; a model of `sdprobe.load` or a live pipeline, whose
            first text encoder is used; None for the embedded model's CLIP.

    Raises:
        ValueError: for a vector whose width differs from the table's, or a ``k`` outside the vocabulary's size.

    Source: Gal et al. 2023, An Image is Worth One Word, whose learned vectors are in the space of this table.
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
    """Return the token embeddings of a word from the text encoder's table, before position embeddings are added.

    >>> import sdprobe
    >>> sdprobe.clip.token_vectors("checkered").shape
    torch.Size([2, 96])

    Args:
        word: a word, a phrase, or the name of a learned concept the model has loaded.
        model: as for `nearest_tokens`.
    """
    return Vocabulary(given_or_embedded(None) if model is None else model).of(word)


def pooled(texts: str | Sequence[str], clip: Clip | str | Path | None = None) -> Float[Tensor, "texts width"]:
    """Return one vector per text: the text tower's output at the end token, after its final norm.

    This is before the projection, in the same space as `unpooled`. Projected and normalized, it is the text's vector in
    the common space of images and texts.

    >>> import sdprobe
    >>> clip = sdprobe.clip.load()
    >>> states, end = sdprobe.clip.unpooled("a red circle"), clip.read("a red circle").positions("<end>")
    >>> bool((sdprobe.clip.pooled("a red circle") == states[:, end[0]]).all())
    True

    Source: Radford et al. 2021, Section 2.4.
    """
    return given_or_embedded(clip).pooled(texts)


def unpooled(texts: str | Sequence[str], clip: Clip | str | Path | None = None) -> Float[Tensor, "texts tokens width"]:
    """Return a vector for every token, including padding: the prompt embeddings of Stable Diffusion.

    Attention in the text tower is causal, so the vector of a token depends on the words up to it and on none after it.

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
    """Return the contrastive loss that CLIP is trained with: match each image with its text in the batch, and reverse.

    It is the mean of two cross-entropies, over texts and over images; the i-th image belongs to the i-th text. At
    chance level it is log(batch).

    >>> import sdprobe
    >>> from sdprobe.shapes import scene
    >>> clip, scenes = sdprobe.clip.load(), [scene(k) for k in range(8)]
    >>> images = clip.image_features([own.image for own in scenes])
    >>> texts = clip.text_features([own.caption for own in scenes])
    >>> loss = sdprobe.clip.info_nce(images, texts, clip.logit_scale)
    >>> bool(loss < sdprobe.clip.info_nce(images, texts.flip(0), clip.logit_scale))
    True

    Args:
        image_features: ``[batch, dim]``, of any norm; they are normalized.
        text_features: ``[batch, dim]``.
        logit_scale: the factor of the cosines, ``clip.logit_scale``: exp(t) in the paper's Figure 3, where t is the
            parameter of that name in transformers.

    Raises:
        ValueError: if the two batches are not ``[batch, dim]`` of the same size.

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
