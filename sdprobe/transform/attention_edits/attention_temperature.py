"""`AttentionTemperature`: softer or sharper attention, by a divisor of its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.limits.row_subset import change_rows
from sdprobe.core.rows import Role, rows_of
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.transform.attention_edits.chosen_heads import as_heads, chosen_heads, refuse_missing_heads

KINDS = ("cross", "self", "joint", "image_prompt")


class AttentionTemperature(Transform):
    """Divide the scores of attention by a temperature T: the probabilities become softmax(scores / T), over all keys.

    Above 1 each query looks at more keys, and more evenly; below 1 at fewer. The model's own kernel computes the result
    from a query that is divided by T. What is added to the scores (the model's mask, and the bias of another hook) is
    not divided. Where a hook before this one has replaced probabilities p, they become p^(1/T), in each row of the sum
    that it had.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> hooks = [[], [sdprobe.AttentionTemperature(1.0)], [sdprobe.AttentionTemperature(0.7, kinds="self")]]
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in hooks]
    >>> [bool((runs[0].latents == run.latents).all()) for run in runs]
    [True, True, False]

    Args:
        temperature: above 0; 1 changes nothing, exactly. A model that was trained on pictures of n places and is asked
            for N of them keeps the entropy of its attention at about (log n / log N)^½.
        heads: numbers of attention heads; None for all.
        kinds: kinds of attention, of ``"cross"``, ``"self"``, ``"joint"``, ``"image_prompt"``; None for all.
        modules: patterns on dotted module names; None for all.
        role: only the rows of this role, such as ``"cond"``; None for all.

    To limit it to steps or images, use `sdprobe.only`.

    Raises:
        ValueError: for a temperature that is not above 0 and finite; in a run, for a head that no site has,
            for a role without rows, and for negative probabilities, which have no power.

    Source: Jin et al. 2023, "Training-free Diffusion Model Adaptation for Variable-Sized Text-to-Image Synthesis"
    (NeurIPS): their factor of the scores of self-attention, (log_n N)^½, is 1/T.
    """

    def __init__(
        self,
        temperature: float,
        *,
        heads: Sequence[int] | None = None,
        kinds: str | Sequence[str] | None = None,
        modules: str | Sequence[str] | None = None,
        role: Role | None = None,
    ) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"a temperature is above 0 and finite, not {temperature!r}")
        if role is not None:
            rows_of((), role)  # raises an error for an unknown one
        self.kinds = patterns(kinds)
        if unknown := [kind for kind in self.kinds or () if kind not in KINDS]:
            raise ValueError(f"{unknown[0]!r} is no kind of attention; the kinds: {', '.join(KINDS)}")
        self.temperature, self.heads, self.modules, self.role = temperature, as_heads(heads), patterns(modules), role

    def start(self, run: Run) -> None:
        refuse_missing_heads(self, run)
        if self.role is not None and self.role not in run.roles:
            raise ValueError(f"this run has no rows of role {self.role!r}; its roles: {', '.join(run.roles)}")

    def attention(self, attn: Attention, site: Site) -> Attention:
        entries = [k for k, row in enumerate(attn.rows) if self.role in (None, row.role)]
        if self.temperature == 1:
            return attn
        for own in ([k for k in entries if k not in attn.replaced], [k for k in entries if k in attn.replaced]):
            attn = change_rows(attn, site, own, self._tempered)
        return attn

    def _tempered(self, attn: Attention, site: Site) -> Attention:
        """Return a call whose probabilities were replaced in all rows, or in none, at the temperature."""
        heads = chosen_heads(self.heads, site).to(attn.query.device)
        if not attn.replaced:
            return attn.with_query(torch.where(heads, attn.query / self.temperature, attn.query))
        probs = attn.probs()
        if (probs < 0).any():
            raise ValueError(
                f"{self!r} gets probabilities that another hook has made negative: put it before that hook"
            )
        powers = probs ** (1 / self.temperature)
        total = probs.sum(-1, keepdim=True)
        tempered = powers * (total / powers.sum(-1, keepdim=True).clamp(min=torch.finfo(powers.dtype).tiny))
        return attn.with_probs(torch.where(heads, tempered, probs))
