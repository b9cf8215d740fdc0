"""`joined_hooks`: the hooks of several methods of attribution as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sdprobe.core.attribution import Attribution
from sdprobe.core.compose import Hooks


def joined_hooks(methods: Iterable[Attribution], words: Sequence[str]) -> Hooks:
    """Return the hooks of several methods as one; those that are the same are there once.

    >>> from sdprobe import attributions
    >>> joined_hooks([attributions.Mean(), attributions.SelfRefined(), attributions.Gradient()], ["red"])
    Hooks(AttentionMaps(), SelfAttentionMaps(), WordGradients(words=['red']))

    Args:
        methods: the methods.
        words: those that are asked for, of methods that each word costs; the others record every word.
    """
    every = [hook for method in methods for hook in method.hooks(words if method.each_word_costs else None)]
    return Hooks(*{(type(hook), repr(hook)): hook for hook in every}.values())
