"""Make the conditioning stronger or weaker."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Role, Text


class ScalePrompt(Transform):
    """Multiply the prompt's embeddings by a number, after the text encoder.

    Where the denoiser is told one vector of the whole prompt besides (Stable Diffusion XL and 3, Flux), that too.

    >>> import sdprobe
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[sdprobe.ScalePrompt(1.1)], steps=3, seed=0, progress=False
    ... )

    Args:
        factor: 1 is the identity; 0 says nothing at all.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative ones.
    """

    def __init__(self, factor: float, role: Role = "cond") -> None:
        refuse_not_finite("factor", factor)
        self.factor, self.role = factor, role

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        return x * self.factor if text.role == self.role else x

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self.prompt_embeds(x, text)
