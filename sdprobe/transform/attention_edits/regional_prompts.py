"""`RegionalPrompts`: several prompts in one picture, each in its region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.encoded_prompts import Conditioned
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.limits.row_subset import change_rows
from sdprobe.core.rows import Role, rows_of, side_of
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.text import Text
from sdprobe.transform.attention_edits.picture_region import PictureRegion


class RegionalPrompts(Transform):
    """Show each region of the picture a prompt of its own, and the rest the prompt of the run.

    Cross-attention is computed for every prompt, and at each place of the picture the outputs are averaged, with the
    fractions of the place that lie in the regions. Where regions overlap they have equal parts. The prompts meet in
    self-attention and convolutions, which nothing divides, and one thing may grow over a border: let the run's own
    prompt describe the whole, and give it a share inside the regions too, or let each region's prompt name the whole.
    With "a circle left of a square", "a red circle" in the left half and "a blue square" in the right, the embedded
    model made both in 1 of 16 pictures with base=0, and in all 16 with base=0.5.

    >>> import sdprobe
    >>> left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    >>> regions = sdprobe.RegionalPrompts({"a red circle": left, "a blue square": right})
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> both = sdprobe.sample(model, "a circle left of a square", hooks=[regions], **settings)
    >>> everywhere = sdprobe.RegionalPrompts({"a star": (0.0, 0.0, 1.0, 1.0)})
    >>> star, written = (
    ...     sdprobe.sample(model, prompt, hooks=hooks, **settings)
    ...     for prompt, hooks in (("a ring", [everywhere]), ("a star", []))
    ... )
    >>> bool((star.latents == written.latents).all())
    True

    An observer after this one sees the call of the run's own prompt: maps of its words are what they would be. A hook
    that changes attention stands before this one, and what it does to words is done to the run's own prompt. In joint
    attention, where the text's own stream sees the picture, no text can be put in the place of another; there
    `HideTokens` with ``places`` keeps places from words of one prompt.

    Args:
        regions: by prompt, its region: a box (left, top, right, bottom), as fractions of the picture from 0 to 1, with
            (0, 0) the upper left corner; or a mask of booleans over the picture, ``[h, w]``, of any size with the
            picture's ratio of height to width. A place that is partly in a region counts partly.
        base: the share, from 0 to 1, of the run's own prompt inside the regions; 1 changes nothing, exactly.
        modules: patterns on dotted module names; None for every cross-attention.
        role: ``"cond"`` for the rows of the prompt, ``"uncond"`` for those of the negative prompt.

    The prompts are read as `Text.encode` reads them, at ``prompt_embeds``: cut at the end of the context, and without
    hooks and weights of words. The vector of the whole prompt (Stable Diffusion XL) stays that of the run's own. To
    limit it to steps or images, use `sdprobe.only`.

    Raises:
        ValueError: for no regions, an invalid box or mask, and a share outside 0 to 1; in a run, for a model without
            cross-attention, and for a mask with another ratio of height to width than the picture.

    Source: the extension "Regional Prompter" of hako-mikan for the web UI of AUTOMATIC1111, mode "Attention", with its
    base ratio as ``base``; there regions do not overlap. Bar-Tal et al. 2023, "MultiDiffusion", section 4.2, average
    predictions of the whole network instead, which takes a call of it for each region.
    """

    kinds = ("cross",)
    reads_text = True

    def __init__(
        self,
        regions: Mapping[str, Any],
        *,
        base: float = 0.0,
        modules: str | Sequence[str] | None = None,
        role: Role = "cond",
    ) -> None:
        rows_of((), role)  # raises an error for an unknown one
        if not regions:
            raise ValueError("there are no regions: give each prompt one, as in {'a red circle': (0, 0, 0.5, 1)}")
        if not 0 <= base <= 1:
            raise ValueError(f"base is the share of the run's own prompt inside the regions, from 0 to 1, not {base!r}")
        self._regions = {text: PictureRegion.of(region, f"region of {text!r}") for text, region in regions.items()}
        self.regions = {text: region.given for text, region in self._regions.items()}  # which a file can hold
        self.base, self.modules, self.role = float(base), patterns(modules), role

    def start(self, run: Run) -> None:
        if self.role not in run.roles:
            raise ValueError(f"this run has no rows of role {self.role!r}; its roles: {', '.join(run.roles)}")
        if "cross" not in map(run.model.attention_kind, run.model.modules.values()):
            raise ValueError(
                "this model has no cross-attention, and in joint attention no text can be put in the place of another: "
                "write one prompt, and keep the places outside a region from its words by HideTokens(words, "
                "places=mask)"
            )
        for text, region in self._regions.items():
            region.refuse_other_ratio(run, f"mask of {text!r}")
        self._shown: tuple[Conditioned, ...] = ()

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role == side_of(self.role):
            # As many at once as the run encodes: an encoder's last bits may depend on their number.
            self._shown = tuple(text.encode_all([own] * len(x)).of([0]) for own in self.regions)
        return x

    def attention(self, attn: Attention, site: Site) -> Attention:
        entries = [k for k, row in enumerate(attn.rows) if row.role == self.role]
        return attn if self.base == 1 else change_rows(attn, site, entries, self._averaged)

    def _averaged(self, attn: Attention, site: Site) -> Attention:
        """Return a call whose output is the mean of those for every prompt, by their shares of each place."""
        if not vars(self).get("_shown"):
            raise ValueError(
                f"{self!r} has not read its prompts, which it does before the first step: give it to the run itself, "
                f"in hooks=, and not to a further call alone"
            )
        own, count = attn.output(), len(attn.query)
        plain = replace(attn, replaced={}, _made={})  # what was replaced is of the tokens of the run's own prompt
        shares = self._shares(site).to(own)[..., None]
        mixed = own * (1 - shares.sum(0))
        for share, shown in zip(shares, self._shown, strict=True):
            keep = shown.seen.expand(count, -1)
            mixed = mixed + share * plain.with_context(shown.embeds.expand(count, -1, -1), keep).output()
        return attn.with_output(mixed)

    def _shares(self, site: Site) -> Float[Tensor, "regions places"]:
        """Return the share of each region's prompt at each place of a site."""
        inside = torch.stack([region.at(site) for region in self._regions.values()])
        return (1 - self.base) * inside / inside.sum(0).clamp(min=1)
