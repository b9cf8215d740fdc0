"""Two prompts in one: the weighted sum of what a text encoder makes of several texts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Role, Text


class MixPrompts(Transform):
    """Show the denoiser a weighted sum of several texts' embeddings in place of the prompt's: a chimera.

    The weights are taken as they are: of any sign, and of any sum. Where the denoiser is told one vector of the whole
    prompt besides (Stable Diffusion XL and 3, Flux), that is mixed alike: with weight 1 on another text, the picture is
    that text's. On PixArt, whose denoiser is told which tokens to look at, those stay the prompt's own.

    >>> import sdprobe
    >>> chimera = sdprobe.MixPrompts({"a circle": 0.35, "a star": 0.65})
    >>> model = sdprobe.load()
    >>> run = sdprobe.sample(model, "a circle", hooks=[chimera], steps=3, seed=0, progress=False)
    >>> alone = sdprobe.MixPrompts({"a star": 1.0})
    >>> mixed = sdprobe.sample(model, "a circle", hooks=[alone], steps=3, seed=0, progress=False)
    >>> written = sdprobe.sample(model, "a star", steps=3, seed=0, progress=False)
    >>> bool((mixed.latents == written.latents).all())
    True

    Args:
        weights: a weight for each text.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative ones.

    Raises:
        ValueError: for an empty mixture.
    """

    def __init__(self, weights: Mapping[str, float], role: Role = "cond") -> None:
        if not weights:
            raise ValueError("a mixture needs at least one text with its weight, such as {'a circle': 0.5, ...}")
        for text, weight in weights.items():
            refuse_not_finite(f"the weight of {text!r}", weight)
        self.weights, self.role = dict(weights), role

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self._mixed(x, text)

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self._mixed(x, text)

    def _mixed(self, x: Tensor, text: Text) -> Tensor:
        if text.role != self.role:
            return x
        # In batches of the run's own size: an encoder's last bits may depend on how many texts it is given.
        first, *others = (weight * text.encode([other] * len(x)) for other, weight in self.weights.items())
        return sum(others, start=first)
