"""Shake the conditioning, to see how much of it the picture hangs on."""

from __future__ import annotations

import torch
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Role, Text


class NoisePrompt(Transform):
    """Add normal noise to the prompt's embeddings, after the text encoder.

    Where the denoiser is told one vector of the whole prompt besides (Stable Diffusion XL and 3, Flux), noise is added
    to that too, as a share of its own standard deviation.

    >>> import sdprobe
    >>> shaken = sdprobe.NoisePrompt(0.2, seed=1)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[shaken], steps=3, seed=0, progress=False)

    Args:
        amount: the noise's standard deviation, as a share of that of the embeddings themselves; 0 is the identity.
        seed: of the noise, which is the same for every prompt and run.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative ones.
    """

    def __init__(self, amount: float, seed: int = 0, role: Role = "cond") -> None:
        refuse_not_finite("amount", amount)
        self.amount, self.seed, self.role = amount, seed, role

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != self.role:
            return x
        # Of each prompt by itself: among others it is shaken as it is alone.
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(self.seed)).to(x)
        return x + self.amount * x.std(tuple(range(1, x.ndim)), keepdim=True) * noise

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self.prompt_embeds(x, text)
