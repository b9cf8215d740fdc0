"""`learn_token`: a token whose attention map fits a mask, learnt from one annotated picture or a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from PIL.Image import Image
from torch import Tensor
from tqdm.auto import tqdm

from sdprobe.attributions.learned_token import LearnedToken
from sdprobe.attributions.looks_at_picture import looks_at_picture
from sdprobe.attributions.ovam import Ovam, model_of, word_places
from sdprobe.core.attribution import record_of
from sdprobe.core.run import Run
from sdprobe.core.short_repr import said
from sdprobe.model.base import Model
from sdprobe.model.denoiser.keys_of_context import keys_of_context
from sdprobe.model.loading import load
from sdprobe.model.text.concept_training import evaluating
from sdprobe.model.text.shown_text import ShownText, reading_texts
from sdprobe.observe.attention_of_queries import SiteQueries, attention_maps
from sdprobe.observe.attention_queries import AttentionQueries, refuse_joint
from sdprobe.plot.heatmap import HeatMap
from sdprobe.plot.resized import resize

SURE = 1e-6  # the loss of a place is finite: no value of a map is nearer to 0 or 1
Seen = list[SiteQueries]


def learn_token(
    model: Model | Any,
    image: Run | Image | Sequence[Image],
    mask: Shaped[Any, "*images H W"] | Sequence[Shaped[Any, "H W"]],
    *,
    init_word: str | None = None,
    steps: int = 150,
    lr: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> LearnedToken:
    """Learn a token that finds what a mask shows, also in other pictures; the model itself is not changed.

    Two vectors in the space of the prompt embeddings are learnt: x₀ for the background, which begins as the first token
    of an empty text (the start token of CLIP), and x₁ for the object, which begins as a word. With only these two shown
    in place of the prompt, the map of the object at a place p is

    O(p) = mean over sites s, heads h and steps t of softmax(Q_st K_s([x₀, x₁])ᵀ / √d)[h, p, 1]

    It is resized bilinearly to the size of the mask Y and scaled in each picture from 0 at its minimum to 1 at its
    maximum: Ō = (O - min O) / (max O - min O). The loss is the binary cross-entropy
    -mean over p of Y(p) log Ō(p) + (1 - Y(p)) log(1 - Ō(p)), and the mean of that over the pictures. Adam minimises it,
    and the vectors of the lowest loss are kept.

    >>> import sdprobe
    >>> from sdprobe.shapes import detect
    >>> import numpy as np
    >>> model, queries = sdprobe.load(), sdprobe.AttentionQueries()
    >>> run = sdprobe.sample(model, "a red ring", hooks=[queries], steps=8, seed=0, progress=False)
    >>> mask = detect(np.asarray(run.images[0]))[0].mask
    >>> token = sdprobe.learn_token(model, run, mask, init_word="ring", steps=5, progress=False)
    >>> token, token.losses[-1] < token.losses[0]
    (LearnedToken('ring', 2 × 96, 5 losses), True)
    >>> token.segment(run).shape
    torch.Size([64, 64])

    Args:
        model: the result of `sdprobe.load`, or a live pipeline, of a family with cross-attention.
        image: a run with `sdprobe.AttentionQueries`, whose own queries are used, of all its images; or a picture, or
            several, each of which is noised to several levels and shown to the denoiser with an empty prompt, in a
            family with image-to-image.
        mask: where the object is: booleans ``[H, W]`` of any size with the picture's ratio of height to width; for
            several images one each.
        init_word: the word to start from; of several tokens, the last. None for the end token of an empty text, where
            that has a start token too.
        steps: number of training steps.
        lr: the step size of Adam, relative to the root mean square of the initial vectors.
        seed: the seed of the noise that is added to pictures.
        progress: show a progress bar.

    Raises:
        ValueError: for a model of joint attention; without a word where an empty text has one token; for a mask that is
            empty, full, or of another ratio; for masks that are not as many as the images, and for no image; for a run
            without queries, or that was made with other weights.
        FloatingPointError: if the loss or its gradient is no longer finite.

    The token learns what the masked things have in common, at the grids of the sites. On the embedded model, learnt
    from eight pictures of red rings, it finds those of others better than the words do by `sdprobe.attributions.Ovam`
    (mean IoU 0.62 against 0.56, thresholds chosen on further pictures); rings of all colours no better (both 0.43); and
    blue stars worse (0.59 against 0.64). ``tests/benchmarks/learned_token.py`` measures it.

    Differences from the authors' code: there the maps are divided by the number of sites, heads and steps, or, as one
    of its options and here, scaled from their minimum to their maximum, which needs no threshold of its own for each
    class. There the loss is torch's cross-entropy of the background's map and the object's, which takes a further
    softmax of what are probabilities already; and the optimiser is SGD with a step size for Stable Diffusion 1.5. The
    step size here means the same for every encoder.

    Source: Marcos-Manchón et al. 2024, "Open-Vocabulary Attention Maps with Token Optimization for Semantic
    Segmentation in Diffusion Models" (CVPR), section 3 (token optimization).
    """
    own = model if isinstance(model, Model) else load(model)
    refuse_joint(own)
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps is 1 or more and lr above 0, not {steps} and {lr}")
    pictures = _queries(own, image, seed)
    masks = _masks(mask, image, len(pictures))
    losses: list[float] = []
    with reading_texts(own, {}) as read:
        vectors = _initial(read, init_word).requires_grad_()
        optimiser = torch.optim.Adam([vectors], lr=lr * float(vectors.detach().square().mean().sqrt()))
        best = vectors.detach().clone()
        with (
            own.freeze_parameters(),
            evaluating(own),
            torch.enable_grad(),
            tqdm(total=steps, disable=not progress) as bar,
        ):
            for _ in range(steps):
                loss = _loss(own, vectors, pictures, masks)
                (vectors.grad,) = torch.autograd.grad(loss, [vectors])
                if not (loss.isfinite() and vectors.grad.isfinite().all()):
                    raise FloatingPointError(f"the loss of step {len(losses)} is {loss.item()}: lower lr")
                losses.append(loss.item())
                if losses[-1] <= min(losses):
                    best = vectors.detach().clone()
                optimiser.step()
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update()
    return LearnedToken(best.cpu(), init_word or "object", tuple(losses))


def _initial(read: Callable[[Sequence[str]], list[ShownText]], word: str | None) -> Float[Tensor, "2 width"]:
    """Return the vectors of background and object to begin with."""
    empty, *told = read([""] if word is None else ["", word])
    start, *rest = empty.seen
    if word is None:
        if not rest:
            raise ValueError(
                "an empty text has one token in this model, which stands for the background: give init_word"
            )
        first = empty.embeds[empty.prompt.positions("<end>")[0]]
    else:
        first = told[0].embeds[word_places(told[0].prompt, word)[-1]]
    return torch.stack([empty.embeds[start], first]).detach().float().clone()


def _loss(
    model: Model, vectors: Float[Tensor, "2 width"], pictures: Sequence[Seen], masks: Sequence[Bool[Tensor, "H W"]]
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy of the pictures' scaled maps against their masks."""
    context, losses = vectors.to(model.dtype), []
    keys = {site.layer: keys_of_context(model, site.layer, context) for seen in pictures for site in seen}
    for seen, mask in zip(pictures, masks, strict=True):
        (found,) = attention_maps(((site, keys[site.layer]) for site in seen), [[1]])
        heat = HeatMap(resize(found, (mask.shape[0], mask.shape[1]), "bilinear")).normalized().values
        heat = heat.clamp(SURE, 1 - SURE)
        losses.append(-torch.where(mask.to(heat.device), heat, 1 - heat).log().mean())
    return torch.stack(losses).mean()


def _queries(model: Model, image: Run | Image | Sequence[Image], seed: int) -> list[Seen]:
    """Return the queries of each image."""
    if isinstance(image, Run):
        model_of(image, model)  # refuses one that has other weights than the run's
        record = record_of(image, AttentionQueries, Ovam())
        return [list(record.sites(number)) for number in range(image.settings.images)]
    found = []
    for picture in [image] if isinstance(image, Image) else image:
        looks = [list(run[AttentionQueries].sites()) for run in looks_at_picture(model, picture, seed)]
        of_layers = zip(*looks, strict=True)
        found.append([own[0]._replace(query=torch.cat([site.query for site in own])) for own in of_layers])
    if not found:
        raise ValueError("learn from one picture or several, not from none")
    return found


def _masks(mask: Any, image: Run | Image | Sequence[Image], count: int) -> list[Bool[Tensor, "H W"]]:
    """Return the mask of each image. Raises ValueError for masks that do not fit."""
    single = getattr(mask, "ndim", 0) == 2
    found = [torch.as_tensor(own).bool() for own in ([mask] if single else mask)]
    if len(found) != count:
        raise ValueError(f"{len(found)} masks for {count} images: give one [H, W] for each")
    for number, own in enumerate(found):
        if own.ndim != 2 or not own.any() or own.all():
            raise ValueError(
                f"a mask is [H, W], true somewhere and not everywhere; that of image {number} is {said(own)}"
            )
        if isinstance(image, Run):
            height, width = image.settings.height, image.settings.width
        else:
            picture = image if isinstance(image, Image) else image[number]
            height, width = picture.height, picture.width
        if own.shape[0] * width != own.shape[1] * height:
            raise ValueError(f"mask {number} is {own.shape[0]}×{own.shape[1]}, and its picture {height}×{width}")
    return found
