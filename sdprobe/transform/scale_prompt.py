"""`ScalePrompt`: make the prompt embeddings larger or smaller."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Role
from sdprobe.core.text import Text


class ScalePrompt(Transform):
    """Multiply the prompt embeddings by a number, after the text encoder.

    In models whose denoiser also gets one vector for the whole prompt (Stable Diffusion XL and 3, Flux), this vector
    too.

    >>> import sdprobe
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[sdprobe.ScalePrompt(1.1)], steps=3, seed=0, progress=False
    ... )

    Args:
        factor: 1 is the identity; 0 removes the prompt.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative prompts.
    """

    def __init__(self, factor: float, role: Role = "cond") -> None:
        refuse_not_finite("factor", factor)
        self.factor, self.role = factor, role

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        return x * self.factor if text.role == self.role else x

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self.prompt_embeds(x, text)
