"""`ShareAttention`: the pictures of a run look at one of them, and take its style or its subject."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.covered_places import covered_by_half
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.limits.row_subset import change_rows, number_in_whole, numbers_in_whole, whole_run
from sdprobe.core.prompt import refuse_missing
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.plot.heatmap import HeatMap
from sdprobe.transform.attention_edits.word_columns import Word, as_words
from sdprobe.transform.attention_edits.word_places import WordPlaces

EPSILON = 1e-5
"""Added to a variance, as the authors do."""

Positions = Shaped[Tensor, "rows heads positions width"]
Places = Bool[Tensor, " places"] | slice


class ShareAttention(Transform):
    """Let every picture of a run look at a reference among them, in self-attention, beside itself.

    A picture's keys and values are followed by those of the reference. Its own queries and keys are first given the
    mean and the deviation, over the places, of the reference's (AdaIN), without which it would hardly look there. So
    the pictures of several prompts share a style. With ``words``, only the places of the reference where the words are
    can be looked at, which makes a subject consistent; ``adain=False`` then leaves the rest its own style.

    The reference stays as it is, bit for bit. Every row looks at the reference's row of its own role.

    >>> import sdprobe
    >>> share = sdprobe.ShareAttention()
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> prompts = ["a red circle", "a star", "a ring"]
    >>> plain, aligned = (sdprobe.sample(model, prompts, hooks=own, **settings) for own in ([], [share]))
    >>> [bool((a == b).all()) for a, b in zip(plain.latents, aligned.latents)]
    [True, False, False]
    >>> subject = sdprobe.ShareAttention(words="circle", adain=False)
    >>> run = sdprobe.sample(model, ["a red circle", "a circle and a star"], hooks=[subject], **settings)
    >>> run[subject].mask.shape
    torch.Size([16, 16])

    In joint attention the places of the picture look at those of the reference, and the text at neither more nor less
    than before. A hook after this one sees the call of each picture by itself: only the output is changed.

    Args:
        reference: the number of the reference among the images of the run, counted from 0; of the whole run, also where
            the hook is limited to some of its images.
        adain: whether queries and keys are normalised to the reference's.
        words: a word or phrase of the reference's prompt, or several: where they are in the reference follows from the
            attention to them in the steps before, so in the first step nothing is shared.
        threshold: with ``words``: a place is shared if the map of the words, scaled to [0, 1], is above it.
        weight: how much a place of the reference counts beside one of the picture's own, before the softmax's sum; 0
            changes nothing, exactly.
        modules: patterns on dotted module names; None for every self-attention and joint attention. With ``words``
            they must name sites with text too.

    Attributes:
        mask: (in a run) with ``words``, which places of the reference were shared last, ``[h, w]``; else None.

    To limit it to steps or rows, use `sdprobe.only`; the reference must be among the rows. The authors share in every
    step. With ``words``, it must get a step before those in which it is to share, and the rows of the prompt; a run
    that goes on from a checkpoint begins the map of the words anew, and shares nothing in its first step.

    Warns:
        UserWarning: with ``words``, at the end of a run in which nothing was shared.

    Raises:
        ValueError: for a negative weight and a threshold outside 0 to 1; in a run, for a single image, for the number
            of an image that there is not, for rows without the reference's, where no attention to the words was seen,
            and where a hook before it has replaced probabilities of a site in which it acts.
        WordNotInPrompt: in a run, for a word that the reference's prompt does not have.

    Source: Hertz et al. 2023, "Style Aligned Image Generation via Shared Attention", section 3. The authors' code also
    shares the statistics of normalisation layers; here only attention is shared. With words: Tewel et al. 2024,
    "Training-Free Consistent Text-to-Image Generation", section 3.1. There all pictures see each other's subjects, with
    Otsu's threshold, and dropout and the injection of features follow, which are not here. In Flux queries and keys are
    rotated by their place before they are normalised here.
    """

    kinds: tuple[str, ...] | None = ("self", "joint")

    def __init__(
        self,
        reference: int = 0,
        *,
        adain: bool = True,
        words: Word | Sequence[Word] | None = None,
        threshold: float = 0.5,
        weight: float = 1.0,
        modules: str | Sequence[str] | None = None,
    ) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight is a number from 0 upward, not {weight!r}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is from 0 to 1, not {threshold!r}")
        self.reference, self.adain, self.weight, self.threshold = operator.index(reference), adain, weight, threshold
        self.words = None if words is None else as_words(words)
        self.modules = patterns(modules)

    def start(self, run: Run) -> None:
        count, images = whole_run(run).settings.images, numbers_in_whole(run)
        if count < 2:
            raise ValueError(
                "attention is shared between pictures of one run, and this run has one: give several prompts, or "
                "images_per_prompt"
            )
        if not 0 <= self.reference < count:
            raise ValueError(f"the reference is one of this run's {count} images, counted from 0, not {self.reference}")
        if self.reference not in images or images == [self.reference]:
            raise ValueError(
                f"{self!r} gets the images {images} alone, and needs its reference, image {self.reference}, and another"
                f" that looks at it: leave both among the rows"
            )
        self.mask: Bool[Tensor, "h w"] | None = None
        if self.words is None:
            return
        own = images.index(self.reference)
        refuse_missing([run.prompt_of(own)], self.words)
        self.kinds = ("self", "joint", "cross")
        self._places = WordPlaces([self.words if image == own else [] for image in range(len(images))])
        self._step: int | None = None
        self._own, self._has_shared, self._sees_prompt = own, False, False

    def attention(self, attn: Attention, site: Site) -> Attention:
        if self.words is not None:
            self._look(attn, site)
        numbers = [number_in_whole(site.run, row.image) for row in attn.rows]
        entries = [k for k, number in enumerate(numbers) if number != self.reference]
        if site.kind == "cross" or self.weight == 0 or not entries or (places := self._shared_places(site)) is None:
            return attn
        sources = {row.role: k for k, row in enumerate(attn.rows) if numbers[k] == self.reference}
        if lost := {attn.rows[k].role for k in entries} - set(sources):
            raise ValueError(
                f"{site.name} ran for rows of role {', '.join(sorted(lost))} without that of image {self.reference}, "
                f"which they look at"
            )
        if attn.replaced.keys() & set(entries):
            raise ValueError(
                f"a hook before {self!r} has replaced probabilities at {site.name}, which keys of another picture "
                f"have no part in: limit one of both to other sites or steps, by modules= or sdprobe.only"
            )
        self._has_shared = True
        reference = [sources[attn.rows[k].role] for k in entries]
        query, key, value = (x[reference][:, :, site.image] for x in (attn.query, attn.key, attn.value))
        return change_rows(attn, site, entries, partial(self._looking_at, query, key, value, places))

    def finish(self, run: Run) -> None:
        if self.words is not None and self.weight and self._places.grids and not self._has_shared:
            warnings.warn(
                f"{self!r} has shared nothing: where its words are follows from the steps before, so it must get one "
                f"more before those in which it is to share",
                stacklevel=2,
            )
        self.mask = None if self.mask is None else self.mask.cpu()

    def _looking_at(
        self, query: Positions, key: Positions, value: Positions, places: Places, own: Attention, site: Site
    ) -> Attention:
        """Return a call with the output that the picture's places have where they look at the reference's too.

        Args:
            query: the reference's, at the places of the picture, for each row of the call; and so its key and value.
            places: which of its places are looked at.
            own: the call.
            site: its site.
        """
        image, queries, keys = site.image, own.query, own.key
        if self.adain:
            queries, keys = (_normalised(x, to, image) for x, to in ((queries, query), (keys, key)))
        further, values = key[:, :, places], value[:, :, places]
        both = own.with_query(queries).with_keys(torch.cat([keys, further], 2), torch.cat([own.value, values], 2))
        if self.weight != 1:
            bias = torch.zeros(1, 1, 1, both.key.shape[2], device=both.key.device)
            bias[..., -further.shape[2] :] = math.log(self.weight)
            both = both.biased(bias)
        made = own.output().clone()
        made[:, :, image] = both.output()[:, :, image]
        return own.with_output(made)

    def _look(self, attn: Attention, site: Site) -> None:
        """See where the words are; what is shared in a step follows from the steps before."""
        if "_places" not in vars(self):
            raise ValueError(
                f"{self!r} finds its words in the steps of a run: give it to the run itself, in hooks=, and not to a "
                f"further call alone"
            )
        if site.further:
            return
        self._sees_prompt |= any(row.role == self._places.role for row in attn.rows)
        if site.index != self._step:
            before, self._step = self._step, site.index
            if before is not None:
                self.mask = self._found()
        self._places.add(attn, site)

    def _found(self) -> Bool[Tensor, "h w"]:
        if not self._sees_prompt:
            raise ValueError(
                f"{self!r} finds its words by the rows of the prompt, and gets none: leave those of role "
                f"{self._places.role!r} among its rows"
            )
        if not self._places.grids:
            raise ValueError(
                f"{self!r} saw no attention to the words {self.words}: let its modules include sites with text"
            )
        seen = self._places.at(grids=[self._places.usual_grid()])[self._own]
        return HeatMap(seen).mask(self.threshold)

    def _shared_places(self, site: Site) -> Places | None:
        """Return which places of the reference are looked at; None for none."""
        if self.words is None:
            return slice(None)
        if self.mask is None or site.grid is None:
            return None
        places = covered_by_half(self.mask, site.grid).flatten()
        return places if places.any() else None


def _normalised(x: Positions, to: Positions, image: slice) -> Positions:
    """Return queries or keys whose mean and deviation over the places of the picture are those of others (AdaIN)."""
    own, reference = x[:, :, image].float(), to.float()
    (deviation, mean), (deviation_to, mean_to) = map(_statistics, (own, reference))
    made = x.clone()
    made[:, :, image] = ((own - mean) / deviation * deviation_to + mean_to).to(x.dtype)
    return made


def _statistics(x: Float[Tensor, "rows heads places width"]) -> tuple[Tensor, Tensor]:
    return (x.var(2, correction=0, keepdim=True) + EPSILON).sqrt(), x.mean(2, keepdim=True)
