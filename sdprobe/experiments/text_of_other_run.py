"""One picture looks at the text of another run: `TextOfRun` keeps it, `ShowText` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.attention_call import by_own_mask
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.limits.row_subset import change_rows
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.experiments.random_vectors import with_norms_of
from sdprobe.experiments.seed_of import seed_of


class Place(NamedTuple):
    """One attention call of a run: the step, the module, and which of its calls in this step, from 0."""

    step: int
    module: str
    call: int

    @classmethod
    def of(cls, site: Site) -> Place:
        """Return the place of a site."""
        return cls(site.step.index, site.name, site.call)


@dataclass(frozen=True)
class SiteText:
    """What the picture looks at of a text in one attention call. Tokens that it does not see are none of it.

    Args:
        key: the keys of the tokens.
        value: their values.
    """

    key: Shaped[Tensor, "heads tokens width"]
    value: Shaped[Tensor, "heads tokens width_v"]


class TextOfRun(Observer):
    """Keep the keys and values of the prompt's tokens at every site with text and every step of a run of one picture.

    >>> import sdprobe
    >>> kept = TextOfRun()
    >>> model, settings = sdprobe.load("shapes-joint"), {"steps": 2, "seed": 0, "progress": False}
    >>> run = sdprobe.sample(model, "a blue circle", hooks=[kept], **settings)
    >>> sorted({place.step for place in run[kept].texts})
    [0, 1]

    Attributes:
        texts: (in a run) by the place.
    """

    kinds = ("cross", "joint")

    def start(self, run: Run) -> None:
        self.texts: dict[Place, SiteText] = {}

    def attention(self, attn: Attention, site: Site) -> None:
        if site.text is None:  # at image prompts
            return
        for row in (k for k, own in enumerate(attn.rows) if own.role == "cond"):
            seen = _seen(attn, site)[row]
            key, value = (x[row, :, site.text][:, seen].detach().clone() for x in (attn.key, attn.value))
            self.texts[Place.of(site)] = SiteText(key, value)


class ShowText(Transform):
    """Let the picture's places look at the tokens of another run's prompt, in place of those of their own.

    Each token is as the text's stream had it in that run, at the same site and step. The tokens of the own prompt look
    at each other and at the picture as before, so that the text's stream changes only through the picture.

    >>> import sdprobe
    >>> kept, model, settings = TextOfRun(), sdprobe.load("shapes-joint"), {"steps": 2, "seed": 0, "progress": False}
    >>> other = sdprobe.sample(model, "a blue circle", hooks=[kept], **settings)
    >>> own, shown = (
    ...     sdprobe.sample(model, "a red circle", hooks=hooks, **settings)
    ...     for hooks in ([], [ShowText(other[kept].texts)])
    ... )
    >>> bool((shown.latents == own.latents).all())
    False

    Args:
        texts: what `TextOfRun` has kept.

    Raises:
        KeyError: in a run, for a site or step that was not kept.
    """

    kinds = ("cross", "joint")

    def __init__(self, texts: Mapping[Place, SiteText]) -> None:
        self.texts = texts

    def attention(self, attn: Attention, site: Site) -> Attention:
        if site.text is None:  # at image prompts
            return attn
        return change_rows(attn, site, [k for k, row in enumerate(attn.rows) if row.role == "cond"], self._shown)

    def _shown(self, attn: Attention, site: Site) -> Attention:
        place, own = Place.of(site), attn.output()
        if place not in self.texts:
            raise KeyError(
                f"no text was kept at {place.module} in step {place.step}: keep it in a run of the same model with as "
                f"many steps"
            )
        text = self.texts[place]
        assert site.text is not None
        key, value = (
            torch.cat([x[:, :, : site.text.start], new.to(x).expand(len(x), -1, -1, -1), x[:, :, site.text.stop :]], 2)
            for x, new in ((attn.key, text.key), (attn.value, text.value))
        )
        keep = _kept_beside(attn, site, text.key.shape[1])
        bare = attn if keep is None else replace(attn, mask=None, kernel=by_own_mask, fused=lambda other: None)
        shown = bare.with_keys(key, value)
        seen = (shown if keep is None else shown.masked(keep)).output()
        return attn.with_output(own.slice_scatter(seen[:, :, site.image], 2, site.image.start, site.image.stop))


def random_texts(texts: Mapping[Place, SiteText], seed: int) -> dict[Place, SiteText]:
    """Return as many random keys and values of the same norms: the control of `ShowText`.

    >>> place, text = Place(0, "blocks.0.attn", 0), SiteText(torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> made = random_texts({place: text}, seed=0)[place]
    >>> made.key.norm(dim=-1).round(decimals=4).tolist(), bool((made.key == text.key).any())
    ([[2.0, 2.0]], False)
    """
    found = {}
    for place, text in texts.items():
        own = torch.Generator().manual_seed(seed_of(seed, *place))
        found[place] = SiteText(with_norms_of(text.key, own), with_norms_of(text.value, own))
    return found


def _seen(attn: Attention, site: Site) -> Bool[Tensor, "rows tokens"]:
    """Return which tokens of the text the picture sees. A mask says the same of all its places and of every head."""
    assert site.text is not None
    keep = _kept(attn)
    if keep is None:
        return attn.key.new_ones(len(attn.key), site.text.stop - site.text.start, dtype=torch.bool)
    return keep[:, 0, site.image.start or 0, site.text]


def _kept_beside(attn: Attention, site: Site, tokens: int) -> Bool[Tensor, "rows 1 queries keys"] | None:
    """Return which keys each query sees, where all of so many tokens stand in place of its own; None for all."""
    keep = _kept(attn)
    if keep is None:
        return None
    assert site.text is not None
    before, after = keep[..., : site.text.start], keep[..., site.text.stop :]
    return torch.cat([F.pad(before, (0, tokens), value=True), after], -1)


def _kept(attn: Attention) -> Bool[Tensor, "rows 1 queries keys"] | None:
    if attn.mask is None:
        return None
    mask = attn.mask.expand(*attn.query.shape[:-1], attn.key.shape[-2])[:, :1]
    return mask if mask.dtype == torch.bool else mask >= 0
