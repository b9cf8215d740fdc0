"""`NoisePrompt`: add noise to the prompt embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Role
from sdprobe.core.text import Text


class NoisePrompt(Transform):
    """Add normal noise to the prompt embeddings, after the text encoder.

    In models whose denoiser also gets one vector for the whole prompt (Stable Diffusion XL and 3, Flux), noise is added
    to this vector too, relative to its own standard deviation.

    >>> import sdprobe
    >>> shaken = sdprobe.NoisePrompt(0.2, seed=1)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[shaken], steps=3, seed=0, progress=False)

    Args:
        amount: the noise's standard deviation, relative to that of the embeddings; 0 is the identity.
        seed: the seed of the noise, which is the same for every prompt and run.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative prompts.
    """

    def __init__(self, amount: float, seed: int = 0, role: Role = "cond") -> None:
        refuse_not_finite("amount", amount)
        self.amount, self.seed, self.role = amount, seed, role

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != self.role:
            return x
        # Separately for each prompt, so that the result does not depend on the other prompts.
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(self.seed)).to(x)
        return x + self.amount * x.std(tuple(range(1, x.ndim)), keepdim=True) * noise

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self.prompt_embeds(x, text)
