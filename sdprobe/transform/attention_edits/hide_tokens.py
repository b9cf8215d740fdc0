"""`HideTokens`: places of the picture cannot look at some tokens of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.rows import Role
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.transform.attention_edits.chosen_heads import as_heads, chosen_heads, refuse_missing_heads
from sdprobe.transform.attention_edits.share_of_places import ShareOfPlaces
from sdprobe.transform.attention_edits.word_columns import Columns, Word, WordColumns, as_words
from sdprobe.transform.part_of_activation import PartOfActivation


class HideTokens(Transform):
    """Keep places of the picture from looking at some tokens of the prompt: attention knock-out.

    It acts where the picture looks at the text: in cross-attention, and in joint attention, where the text still looks
    at its own tokens. The softmax runs over the other keys. The text encoder is not changed, so that what it has moved
    from the hidden token to others is still seen there.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> runs = [
    ...     sdprobe.sample(model, "a red circle", hooks=hooks, **settings)
    ...     for hooks in ([], [sdprobe.HideTokens("red")], [sdprobe.HideTokens(["red", "<pad>"])])
    ... ]
    >>> [bool((runs[0].latents == run.latents).all()) for run in runs]
    [True, False, False]
    >>> sdprobe.sample(model, "a red circle", hooks=[sdprobe.HideTokens("blue")], **settings)
    Traceback (most recent call last):
    sdprobe.core.prompt.WordNotInPrompt: 'blue' is not in the prompt 'a red circle'; its words are ...

    Args:
        words: what to hide: words or phrases, ``"<start>"``, ``"<end>"``, ``"<pad>"``, or token positions. Each prompt
            is searched for itself, and every occurrence is hidden, in the tokens of every text encoder. The rows of a
            prompt that has none of them are not changed.
        places: a mask of booleans over the picture, ``[h, w]`` or ``[images, h, w]``: only there the tokens are hidden.
            It is resized to each grid: a place is chosen if at least half of it is covered. None for every place.
        order: a number for each place, ``[h, w]``, such as ``heat_map.values``, with ``share``: the tokens are hidden
            at the places with the highest numbers. In a video these are places of every frame; those of an order
            ``[frames, h, w]``, with the frames of its latents or its own, are the highest of all frames.
        share: at how many of the places, from 0 to 1; the same share of every grid.
        heads: numbers of attention heads; None for all.
        modules: patterns on dotted module names; None for every site with text.
        role: ``"cond"`` for the rows of the prompt, ``"uncond"`` for those of the negative prompt.

    To limit it to steps, sites or images, use `sdprobe.only`.

    Raises:
        WordNotInPrompt: in a run, for a word that no prompt has; the message lists the prompt's words.
        ValueError: for no words, for places with an order, and for an order without a share; in a run, where a place
            would have no token left to look at, and for places that a site does not have, and a head that none has.
        TypeError: for places that are not booleans, and for an order that is not numbers.

    Source: Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4
    (attention knock-out).
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        words: Word | Sequence[Word],
        *,
        places: Any = None,
        order: Any = None,
        share: float | None = None,
        heads: Sequence[int] | None = None,
        modules: str | Sequence[str] | None = None,
        role: Role = "cond",
    ) -> None:
        # Lists, which a file can hold.
        self.words = words if isinstance(words, str) else as_words(words)
        self._columns = WordColumns.of(self.words, role)
        if places is not None and order is not None:
            raise ValueError("places say where to hide, and so do order and share: give one of them")
        if (order is None) != (share is None):
            raise ValueError("order and share go together, as in order=heat_map.values, share=0.1")
        self._part = PartOfActivation(None if places is None else torch.as_tensor(places).cpu())
        self._share = None if order is None else ShareOfPlaces.of(order, share)
        self.places = None if places is None else torch.as_tensor(places).tolist()
        self.order = None if self._share is None else self._share.order.tolist()
        self.share = None if self._share is None else self._share.share
        self.heads, self.modules, self.role = as_heads(heads), patterns(modules), role

    def start(self, run: Run) -> None:
        self._columns.refuse_missing(run)
        refuse_missing_heads(self, run)

    def attention(self, attn: Attention, site: Site) -> Attention:
        return self._columns.change(attn, site, self._hidden)

    def _hidden(self, attn: Attention, columns: Columns, site: Site) -> Attention:
        chosen = self._places(attn, site)
        if self._share is not None and not chosen.any():
            return attn
        keys = torch.zeros(len(columns), attn.key.shape[2], dtype=torch.bool)
        for k, words in enumerate(columns):
            keys[k, [position for positions in words.values() for position in positions]] = True
        heads = chosen_heads(self.heads, site)
        device = attn.query.device
        keep = ~(chosen[:, None, :, None].to(device) & keys[:, None, None].to(device) & heads.to(device))
        self._refuse_blind(attn, keys, keep, site)
        return attn.masked(keep)

    def _places(self, attn: Attention, site: Site) -> Bool[Tensor, "#rows queries"]:
        """Return which queries cannot look: those of the picture, and of them those that are chosen."""
        count = attn.query.shape[2]
        image = torch.zeros(1, count, dtype=torch.bool)
        if self._share is not None:
            image[:, site.image] = self._share.chosen(site)
            return image
        image[:, site.image] = True
        if self.places is None:
            return image
        as_activation = torch.empty(len(attn.query), count, 1)
        return image & self._part.chosen(as_activation, site)[..., 0]

    def _refuse_blind(self, given: Attention, keys: Tensor, keep: Tensor, site: Site) -> None:
        """Refuse to hide all that a place could look at."""
        mask, blind = given.mask, keys.all(-1)
        if mask is not None:  # tokens that the model masks itself are no keys either
            seen = keep & (mask if mask.dtype == torch.bool else mask.float().exp() > 0)
            blind = ~seen.any(-1).flatten(1).all(-1).cpu()
        if blind.any():
            prompt = given.rows[int(blind.nonzero()[0])].prompt
            raise ValueError(
                f"{self!r} hides every token of the prompt {short_repr(prompt.text)} that {site.name} can look at, and "
                f"in {site.kind}-attention a place must look at something: hide fewer, and leave '<start>' or '<end>'"
            )
