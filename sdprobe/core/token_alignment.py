"""`align_tokens`: which token of one prompt goes with which token of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.short_repr import short_repr

Pair = tuple[int, int]


class Gap(NamedTuple):
    """Tokens of words of the source, and of the target, between words that both have; one side may be empty."""

    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenAlignment:
    """Which tokens two prompts have in common, and what stands between these. Made by `align_tokens`.

    >>> import sdprobe
    >>> red, blue, large = map(sdprobe.load().read, ["a red circle", "a blue circle", "a large red circle"])
    >>> align_tokens(red, blue).gaps, align_tokens(red, large).gaps
    ((Gap(source=(2,), target=(2,)),), (Gap(source=(), target=(2,)),))
    >>> align_tokens(red, large).replacement
    Traceback (most recent call last):
    ValueError: 'a large red circle' has 'large' in addition to 'a red circle': ...

    Args:
        source: the one prompt.
        target: the other.
        common: positions of the tokens that both have, in the source and in the target; of padding tokens too.
        gaps: the tokens of whole words between words that both have. ``"unhappy"`` and ``"happy"`` may have a token in
            common, and are two words.
        left: for each of the source's padding tokens that the target has no counterpart of, the place for its share.
    """

    source: Prompt
    target: Prompt
    common: tuple[Pair, ...]
    gaps: tuple[Gap, ...]
    left: tuple[Pair, ...] = ()

    @property
    def only_swaps(self) -> bool:
        """Whether each word was only put in the place of one other: every gap has as many words on both sides.

        A word of several tokens is one. Signs that are no words count too.
        """
        return not any(self._uneven(gap) for gap in self.gaps)

    def _uneven(self, gap: Gap) -> bool:
        return _count(self.source, gap.source) != _count(self.target, gap.target)

    @cached_property
    def replacement(self) -> Float[Tensor, "source target"]:
        """How the attention to the source's tokens is shared by the target's: each row sums to 1.

        A token goes to its counterpart. In a gap of as many tokens on both sides, the first goes to the first, and so
        on; in another, each token of the source is shared by all of the target's in equal parts.

        Raises ValueError, naming the words, if the target has words in addition, or lacks some, or has two in the place
        of one.
        """
        if not self.only_swaps:
            raise ValueError(f"{self.said()}: attention is replaced where words stand in the place of others")
        inside = {position for gap in self.gaps for position in gap.source}
        shares = self._ones([pair for pair in (*self.common, *self.left) if pair[0] not in inside])
        for gap in self.gaps:
            if len(gap.source) == len(gap.target):
                shares[list(gap.source), list(gap.target)] = 1
            else:
                shares[torch.tensor(gap.source)[:, None], torch.tensor(gap.target)] = 1 / len(gap.target)
        return shares

    @cached_property
    def refinement(self) -> Float[Tensor, "source target"]:
        """1 where a token of the target is one of the source, else 0; the columns of new tokens are 0."""
        return self._ones(self.common)

    @cached_property
    def new(self) -> Bool[Tensor, " target"]:
        """Which tokens of the target have no counterpart in the source."""
        found = torch.ones(len(self.target.ids), dtype=torch.bool)
        found[[other for _, other in self.common]] = False
        return found

    def _ones(self, pairs: Sequence[Pair]) -> Float[Tensor, "source target"]:
        found = torch.zeros(len(self.source.ids), len(self.target.ids))
        if pairs:
            own, other = zip(*pairs, strict=True)
            found[list(own), list(other)] = 1
        return found

    def said(self) -> str:
        """Return in words what the target has in addition to the source, and what it lacks."""
        added = dict.fromkeys(_words(self.target, gap.target) for gap in self.gaps if not gap.source)
        lost = dict.fromkeys(_words(self.source, gap.source) for gap in self.gaps if not gap.target)
        parts = [f"has {', '.join(map(repr, added))} in addition to"] * bool(added)
        parts += [f"lacks {', '.join(map(repr, lost))} of"] * bool(lost)
        for gap in self.gaps:
            if gap.source and gap.target and self._uneven(gap):
                old, new = _words(self.source, gap.source), _words(self.target, gap.target)
                parts.append(f"has {new!r} in the place of {old!r} in")
        return f"{short_repr(self.target.text)} {' and '.join(parts)} {short_repr(self.source.text)}"


def align_tokens(source: Prompt, target: Prompt) -> TokenAlignment:
    """Align the tokens of two prompts by the longest common subsequence, for each part of the denoiser's token axis.

    Start, words and end are aligned by the vocabulary's numbers; of several longest subsequences, the one that takes
    what is first. The k-th padding token of one goes with the k-th of the other.

    >>> import sdprobe
    >>> red, both = map(sdprobe.load().read, ["a red circle", "a red circle and a star"])
    >>> alignment = align_tokens(red, both)
    >>> alignment.common[:5], alignment.gaps, alignment.only_swaps
    (((0, 0), (1, 1), (2, 2), (3, 3), (4, 7)), (Gap(source=(), target=(4, 5, 6)),), False)

    Args:
        source: a prompt.
        target: another, as the same model reads it.

    Raises ValueError for a prompt of which only the embeddings are known, and for prompts of different models.
    """
    # Prompts are equal whatever their parts are.
    return _aligned(source, target, *(tuple(prompt.parts.items()) for prompt in (source, target)))


@lru_cache(maxsize=256)
def _aligned(source: Prompt, target: Prompt, *parts: tuple[tuple[str, range], ...]) -> TokenAlignment:
    common: list[Pair] = []
    gaps: list[Gap] = []
    left: list[Pair] = []
    for own, other in _parts(source, target):
        read, pads = _content(source, own)
        others, other_pads = _content(target, other)
        pairs = _longest([source.ids[i] for i in read], [target.ids[k] for k in others])
        common += [(read[i], others[k]) for i, k in pairs]
        gaps += _between(_of_same_words(source, target, pairs, read, others), read, others)
        common += zip(pads, other_pads, strict=False)
        last = (other_pads or others)[-1:]  # a token more of the text takes one of the padding's places
        left += [(pad, last[0]) for pad in pads[len(other_pads) :] if last]
    return TokenAlignment(source, target, tuple(common), tuple(gaps), tuple(left))


def _parts(source: Prompt, target: Prompt) -> list[tuple[range, range]]:
    """Return the positions of each part of the token axis in both prompts; encoders may share theirs."""
    for prompt in (source, target):
        if not prompt.roles and prompt.ids:
            raise ValueError(
                "the pipeline was given prompt_embeds instead of a text, so which words they hold is not known, and no "
                "token can be told to be that of another prompt: give it the text"
            )
    if set(source.parts) != set(target.parts):
        raise ValueError(
            f"{short_repr(source.text)} is read by {', '.join(source.parts)} and {short_repr(target.text)} by "
            f"{', '.join(target.parts)}: attention is taken from a run of the same model"
        )
    if not source.parts:
        return [(range(len(source.ids)), range(len(target.ids)))]
    return list(dict.fromkeys((source.of(name), target.of(name)) for name in source.parts))


def _content(prompt: Prompt, part: range) -> tuple[list[int], list[int]]:
    """Return the positions of start, words and end in a part, and those of the padding."""
    pads = [i for i in part if prompt.roles[i] == "pad"]
    return [i for i in part if prompt.roles[i] != "pad"], pads


def _longest(a: Sequence[int], b: Sequence[int]) -> list[Pair]:
    """Return the longest common subsequence of two sequences, as pairs of positions; the first of several."""
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]  # of the rest from i and k on
    for i in reversed(range(len(a))):
        for k in reversed(range(len(b))):
            longest[i][k] = 1 + longest[i + 1][k + 1] if a[i] == b[k] else max(longest[i + 1][k], longest[i][k + 1])
    pairs, i, k = [], 0, 0
    while i < len(a) and k < len(b):
        if a[i] == b[k]:
            pairs.append((i, k))
            i, k = i + 1, k + 1
        elif longest[i + 1][k] >= longest[i][k + 1]:
            i += 1
        else:
            k += 1
    return pairs


def _of_same_words(
    source: Prompt, target: Prompt, pairs: Sequence[Pair], own: Sequence[int], other: Sequence[int]
) -> list[Pair]:
    """Return the pairs of tokens that stand at the same place of the same word in both prompts."""
    words, others = _words_of(source), _words_of(target)

    def place(prompt: Prompt, word: tuple[int, ...], position: int) -> tuple[tuple[int, ...], int]:
        return tuple(prompt.ids[i] for i in word), word.index(position)

    return [
        (i, k)
        for i, k in pairs
        if place(source, words.get(own[i], (own[i],)), own[i])
        == place(target, others.get(other[k], (other[k],)), other[k])
    ]


def _words_of(prompt: Prompt) -> dict[int, tuple[int, ...]]:
    """Return the positions of the word that each token is of."""
    return {i: positions for found in prompt.words.values() for positions in found for i in positions}


def _between(pairs: Sequence[Pair], own: Sequence[int], other: Sequence[int]) -> list[Gap]:
    """Return the tokens between the common ones."""
    edges = [(-1, -1), *pairs, (len(own), len(other))]
    gaps = [
        Gap(tuple(own[i + 1 : past_i]), tuple(other[k + 1 : past_k])) for (i, k), (past_i, past_k) in pairwise(edges)
    ]
    return [gap for gap in gaps if gap.source or gap.target]


def _count(prompt: Prompt, positions: Sequence[int]) -> int:
    """Return the number of words, and of signs outside words, that tokens stand for."""
    words = _words_of(prompt)

    def is_seen(i: int) -> bool:
        return i in words or not prompt.spans or bool(prompt.text[slice(*prompt.spans[i])].strip())

    return len({words.get(i, (i,)) for i in positions if is_seen(i)})


def _words(prompt: Prompt, positions: Sequence[int]) -> str:
    """Return the part of the text that tokens stand for."""
    spans = [prompt.spans[i] for i in positions] if prompt.spans else []
    return prompt.text[spans[0][0] : spans[-1][1]] if spans else " ".join(map(prompt.spelt, positions))
