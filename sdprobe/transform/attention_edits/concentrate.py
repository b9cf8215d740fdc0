"""`Concentrate`: more attention to a word inside a region, and less outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention, in_full_precision
from sdprobe.core.attention_call import per_head
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.rows import Role
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.transform.attention_edits.chosen_heads import as_heads, chosen_heads, refuse_missing_heads
from sdprobe.transform.attention_edits.picture_region import PictureRegion
from sdprobe.transform.attention_edits.word_columns import Columns, Word, WordColumns


class Concentrate(Transform):
    """Concentrate the attention to a word in a region of the picture: paint with words.

    A bias is added to the scores of the word's tokens, before the softmax. At the place q it is

        strength · log(1 + σ) · (2 r_q − 1) · (max_k s_qk − mean_k s_qk)

    with the fraction r_q of the place that is in the region, the noise σ of the step, and the scores s_qk of the place
    for the tokens k of the text. With strength · log(1 + σ) = 1, a token of mean score gets as much attention inside
    the region as the strongest. It acts most in the first steps, where the layout is made, and fades with the noise. At
    pure noise, where σ is infinite, the largest other σ of the run counts. In joint attention it acts where the picture
    looks at the text.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> left, box = sdprobe.Concentrate("circle", (0.0, 0.0, 0.5, 1.0)), (0.0, 0.0, 0.5, 1.0)
    >>> hooks = [[], [sdprobe.Concentrate("circle", box, strength=0)], [left]]
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in hooks]
    >>> [bool((runs[0].latents == run.latents).all()) for run in runs]
    [True, True, False]
    >>> both = sdprobe.Concentrate({"circle": (0.0, 0.0, 0.5, 1.0), "square": (0.5, 0.0, 1.0, 1.0)})
    >>> run = sdprobe.sample(model, "a red circle and a blue square", hooks=[both], **settings)

    Args:
        word: a word or phrase; every occurrence, in the tokens of every text encoder. Or the regions by word, for
            several: the biases of a token that stands in several of them are added.
        box: the region: a box (left, top, right, bottom), as fractions of the picture from 0 to 1, with (0, 0) the
            upper left corner; or a mask of booleans over the picture, ``[h, w]``, of any size with the picture's ratio.
        strength: 0 changes nothing, exactly; a negative one keeps the word out of the region. A large one fills the
            region, whatever shape the thing has.
        heads: numbers of attention heads; None for all.
        modules: patterns on dotted module names; None for every site with text.
        role: ``"cond"`` for the rows of the prompt, ``"uncond"`` for those of the negative prompt.

    To limit it to steps or images, use `sdprobe.only`.

    Raises:
        WordNotInPrompt: in a run, for a word that no prompt has; the message lists the prompt's words.
        ValueError: for an invalid box or mask, and for a strength that is not finite; in a run, for a head that no
            site has, and for a mask with another ratio of height to width than the picture.

    Source: Balaji et al. 2022, "eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers",
    paint-with-words: softmax((QKᵀ + w A) / √d) with w = w' · log(1 + σ) · max(QKᵀ), in cross-attention. There A is 1 in
    the region and 0 outside, so that nothing is subtracted, and the maximum is over all places and tokens. Here the
    highest score is taken at each place, above the mean, since a number that is added to all scores of a place means
    nothing to the softmax. In a flow model σ is its own, from 0 to 1.
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        word: str | Mapping[str, Any],
        box: Any = None,
        *,
        strength: float = 0.5,
        heads: Sequence[int] | None = None,
        modules: str | Sequence[str] | None = None,
        role: Role = "cond",
    ) -> None:
        if isinstance(word, Mapping) == (box is not None):
            raise ValueError(
                "give a word and its region, Concentrate('circle', (0, 0, 0.5, 1)), or regions by word, "
                "Concentrate({'circle': (0, 0, 0.5, 1)})"
            )
        if not math.isfinite(strength):
            raise ValueError(f"a strength is finite, not {strength!r}")
        given = word if isinstance(word, Mapping) else {word: box}
        self._regions = {own: PictureRegion.of(region, f"region of {own!r}") for own, region in given.items()}
        self._columns = WordColumns.of(list(self._regions), role)
        plain = {own: region.given for own, region in self._regions.items()}  # which a file can hold
        self.word: Any = plain if isinstance(word, Mapping) else word
        self.box = None if isinstance(word, Mapping) else plain[word]
        self.strength, self.heads, self.modules, self.role = strength, as_heads(heads), patterns(modules), role

    def start(self, run: Run) -> None:
        self._columns.refuse_missing(run)
        refuse_missing_heads(self, run)
        for word, region in self._regions.items():
            region.refuse_other_ratio(run, f"mask of {word!r}")

    def attention(self, attn: Attention, site: Site) -> Attention:
        return attn if self.strength == 0 else self._columns.change(attn, site, self._concentrated)

    def _concentrated(self, attn: Attention, columns: Columns, site: Site) -> Attention:
        amount = self.strength * math.log1p(_finite_sigma(site.step))
        reach = reach_of(attn, site)
        bias = reach.new_zeros(*attn.query.shape[:3], attn.key.shape[2])
        signs: dict[Word, Tensor] = {
            word: (2 * region.at(site) - 1).to(reach) for word, region in self._regions.items()
        }
        for k, words in enumerate(columns):
            for word, positions in words.items():
                own = amount * signs[word] * reach[k]
                for position in positions:
                    bias[k, :, site.image, position] += own
        return attn.biased(torch.where(chosen_heads(self.heads, site).to(bias.device), bias, 0.0))


def _finite_sigma(step: Step) -> float:
    """Return a step's sigma; of pure noise (a signal-to-noise ratio of zero), the largest other one of the run."""
    if math.isfinite(step.sigma):
        return step.sigma
    others = [sigma for _, sigma, *_ in step.run.levels if math.isfinite(sigma) and sigma > 0]
    if not others:
        raise ValueError(
            "every step of this run is at pure noise, whose sigma is infinite, so that it does not say how strongly to "
            "concentrate: take more steps"
        )
    return max(others)


def reach_of(attn: Attention, site: Site) -> Float[Tensor, "rows heads places"]:
    """Return how far the highest score for a token of the text is above their mean, at each place of the picture.

    Tokens that the model masks are left out.
    """
    tokens = site.tokens()
    query, key = attn.query[:, :, site.image], per_head(attn.key, attn.query)[:, :, tokens]
    with in_full_precision(query):
        scores = (query.float() * attn.scale) @ key.float().mT
    if attn.mask is None:
        return scores.amax(-1) - scores.mean(-1)
    mask = attn.mask.expand(*attn.query.shape[:3], attn.key.shape[2])[:, :, site.image][..., tokens]
    seen = mask if mask.dtype == torch.bool else mask.float().exp() > 0
    mean = (scores * seen).sum(-1) / seen.sum(-1).clamp(min=1)
    return (scores.masked_fill(~seen, -math.inf).amax(-1) - mean).nan_to_num(0.0, neginf=0.0)
