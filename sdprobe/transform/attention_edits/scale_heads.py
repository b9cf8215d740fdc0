"""`ScaleHeads`: strengthen or weaken attention heads, or their attention to some words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.attention_call import per_head
from sdprobe.core.hook import Transform
from sdprobe.core.module_names import fits
from sdprobe.core.rows import Role, rows_of
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.transform.attention_edits.word_columns import Columns, Word, WordColumns, as_words, scaled_columns

OfHeads = float | Sequence[float] | Mapping[int | str, float]
"""One factor for all heads of a site, one for each, or those of some, by number."""


class ScaleHeads(Transform):
    """Multiply what attention heads give by a factor, or only their attention to some words.

    Without words, the head's output is multiplied; 0 ablates the head. With words, the picture's attention to their
    tokens is multiplied in that head, after the softmax, as by `ReweightAttention`.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> same, others = ({"mid*attn2": factors} for factors in (1.0, [0.0, 1.0, 1.0, 2.0]))
    >>> hooks = [[], [sdprobe.ScaleHeads(same)], [sdprobe.ScaleHeads(others)]]
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in hooks]
    >>> [bool((runs[0].latents == run.latents).all()) for run in runs]
    [True, True, False]

    The heads that look most at the words of a concept, more than the others, as in the source:

    >>> concepts = {"colour": ["red", "blue"], "shape": ["circle", "star"]}
    >>> votes = sdprobe.experiments.head_relevance(
    ...     model, concepts, "a red circle", seeds=0, steps=2, progress=False
    ... )
    >>> stronger = sdprobe.ScaleHeads(votes.factors("colour"), words="red")
    >>> run = sdprobe.sample(model, "a red circle", hooks=[stronger], **settings)

    Args:
        factors: by a pattern on dotted module names, one factor for all heads, one for each head, or a dictionary of
            factors by number of the head; or by a pair of a pattern and a number. Where several patterns fit a module,
            their factors are multiplied. Heads without a factor stay as they are, and so do the sites that lack a head
            of that number.
        words: words or phrases, ``"<start>"``, ``"<end>"``, ``"<pad>"``, or token positions; every occurrence, in the
            tokens of every text encoder. The rows of a prompt that has none of them are not changed. None scales the
            whole output.
        role: only the rows of this role: ``"cond"`` for those of the prompt, ``"uncond"`` for those of the negative
            prompt.

    With 1 for all factors nothing is changed, exactly. To limit it to steps or images, use `sdprobe.only`.

    Raises:
        WordNotInPrompt: in a run, for a word that no prompt has; the message lists the prompt's words.
        ValueError: for no factors, and for one that is not finite; in a run, before the first step, for a pattern that
            fits no attention, for a head that no site of its pattern has, and for another number of factors than heads.

    Source: Park et al. 2025, "Cross-Attention Head Position Patterns Can Align with Human Visual Concepts in
    Text-to-Image Generative Models", concept strengthening.
    """

    def __init__(
        self,
        factors: Mapping[str, OfHeads] | Mapping[tuple[str, int], float],
        *,
        words: Word | Sequence[Word] | None = None,
        role: Role = "cond",
    ) -> None:
        rows_of((), role)  # raises an error for an unknown one
        self.factors = _by_pattern(factors)
        self.words = words if words is None or isinstance(words, str) else as_words(words)
        self._columns = None if self.words is None else WordColumns.of(self.words, role)
        self.modules, self.role = tuple(self.factors), role
        self.kinds = None if words is None else ("cross", "joint")

    def start(self, run: Run) -> None:
        self._refuse_missing_heads(run)
        if self._columns is not None:
            self._columns.refuse_missing(run)
        elif self.role not in run.roles:
            raise ValueError(f"this run has no rows of role {self.role!r}; its roles: {', '.join(run.roles)}")

    def attention(self, attn: Attention, site: Site) -> Attention:
        factors = self._at(site.name, site.heads)
        if all(factor == 1 for factor in factors):
            return attn
        of_heads = torch.tensor(factors)[None, :, None, None]
        if self._columns is not None:
            return self._columns.change(attn, site, lambda *given: _of_words(of_heads, *given))
        chosen = torch.tensor([row.role == self.role for row in attn.rows])[:, None, None, None]
        return _of_outputs(attn, torch.where(chosen, of_heads, 1.0).to(attn.value)) if chosen.any() else attn

    def _at(self, name: str, heads: int) -> list[float]:
        """Return the factor of each head of a module."""
        found = [1.0] * heads
        for pattern, own in self.factors.items():
            if not fits(name, pattern):
                continue
            if isinstance(own, list) and len(own) != heads:
                raise ValueError(f"{pattern!r} has {len(own)} factors, and {name} has {heads} heads")
            given = own if isinstance(own, dict) else dict(enumerate(own if isinstance(own, list) else [own] * heads))
            for head, factor in given.items():
                if int(head) < heads:
                    found[int(head)] *= factor
        return found

    def _refuse_missing_heads(self, run: Run) -> None:
        """Refuse other numbers of factors than heads, and a number that no site of its pattern has."""
        counts: dict[str, int] = {
            name: run.model.heads_of(module)
            for name, module in run.model.modules.items()
            if run.model.attention_kind(module)
        }
        for name, heads in counts.items():
            self._at(name, heads)
        for pattern, own in self.factors.items():
            most = max((heads for name, heads in counts.items() if fits(name, pattern)), default=0)
            for head in own if isinstance(own, dict) and most else ():
                if not 0 <= int(head) < most:
                    raise ValueError(
                        f"no site that fits {pattern!r} has a head {head}; they have up to {most}, counted from 0"
                    )


def _of_words(of_heads: Tensor, attn: Attention, columns: Columns, site: Site) -> Attention:
    factors = torch.ones(len(columns), of_heads.shape[1], 1, attn.key.shape[2])
    for k, words in enumerate(columns):
        for position in {position for positions in words.values() for position in positions}:
            factors[k, :, :, position] = of_heads[0, :, :, 0]
    return scaled_columns(attn, factors, site)


def _of_outputs(attn: Attention, factors: Float[Tensor, "rows heads 1 1"]) -> Attention:
    """Return a call whose heads' outputs are multiplied; also if a later hook replaces its probabilities."""
    key, value = (per_head(x, attn.query) for x in (attn.key, attn.value))
    return replace(attn, key=key, value=value * factors, _made={"output": attn.output() * factors})


def _by_pattern(factors: Any) -> dict[str, Any]:
    """Return factors by pattern, as numbers, lists, and dictionaries by text, which a file can hold."""
    if not isinstance(factors, Mapping) or not factors:
        raise ValueError(
            f"factors are given by a module's name, as in {{'mid*attn2': [1.0, 0.0]}}, not {factors!r:.80}"
        )
    found: dict[str, Any] = {}
    for where, own in factors.items():
        if isinstance(where, str):
            found[where] = _plain(own)
    for pattern, head in (where for where in factors if not isinstance(where, str)):
        if pattern in factors:
            raise ValueError(
                f"the factors of {pattern!r} are given by the pattern alone, and by the pair {(pattern, head)!r}: give "
                f"them in one way"
            )
        found.setdefault(pattern, {})[str(int(head))] = _plain(factors[pattern, head])
    return found


def _plain(own: Any) -> Any:
    if isinstance(own, Mapping):
        return {str(int(head)): _plain(factor) for head, factor in own.items()}
    if isinstance(own, Iterable):
        return [_plain(factor) for factor in own]
    if not math.isfinite(own):
        raise ValueError(f"a factor is finite, not {own!r}")
    return float(own)
