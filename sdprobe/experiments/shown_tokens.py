"""`shown_tokens`: the tokens of a prompt that the denoiser is shown."""

from __future__ import annotations

from typing import Any

from sdprobe.core.prompt import Prompt


def shown_tokens(prompt: Prompt, hides_padding: bool) -> list[int]:
    """Return the positions of the tokens that the denoiser is shown: all, or all but the padding.

    >>> import sdprobe
    >>> shown_tokens(sdprobe.load().read("a red circle"), hides_padding=True)
    [0, 1, 2, 3, 4]
    """
    return [k for k, role in enumerate(prompt.roles) if not (hides_padding and role == "pad")]


def refuse_other_length(model: Any, a: str, b: str) -> None:
    """Raise ValueError if a denoiser is shown other numbers of tokens of two prompts."""
    counts = [len(shown_tokens(model.read(text), model.hides_padding)) for text in (a, b)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{a!r} has {counts[0]} tokens and {b!r} has {counts[1]}, and in {type(model).__name__} the text is in one "
            f"attention with the picture, without padding: activations of one do not fit the other. Write prompts of "
            f"the same number of tokens (sdprobe.tokens shows them), or use context_sweep, which takes any"
        )
