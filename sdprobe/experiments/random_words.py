"""`random_words`: other words of a prompt, as a control for words that were chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from sdprobe.core.prompt import Prompt
from sdprobe.experiments.condition import NotInThisCase


def random_words(prompt: Prompt, besides: Collection[int], tokens: Sequence[int], seed: Sequence[int]) -> list[str]:
    """Return words of a prompt at random, each with as many tokens as asked for where the prompt has such words.

    >>> import sdprobe
    >>> prompt = sdprobe.load().read("a red circle left of a checkered square")
    >>> random_words(prompt, prompt.positions("red"), tokens=[1, 2], seed=[0])
    ['square', 'checkered']

    Args:
        prompt: the prompt.
        besides: token positions that no word may have.
        tokens: for each word, how many tokens it should have, of all its occurrences together. Else it is one whose
            number of tokens is nearest.
        seed: of the draws.

    Raises NotInThisCase if there are fewer other words.
    """
    random = np.random.default_rng(list(seed))
    others = [word for word in prompt.words if not {*prompt.positions(word)} & {*besides}]
    if len(others) < len(tokens):
        raise NotInThisCase(
            f"a control hides {len(tokens)} other words of {prompt.text!r}, and there are {len(others)}: use longer "
            f"prompts, so that there is something to compare with"
        )
    found: list[str] = []
    for count in tokens:
        away = [abs(len(prompt.positions(word)) - count) for word in others]
        nearest = [word for word, distance in zip(others, away, strict=True) if distance == min(away)]
        found.append(nearest[int(random.integers(len(nearest)))])
        others.remove(found[-1])
    return found
