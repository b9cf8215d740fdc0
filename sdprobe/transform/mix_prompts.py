"""`MixPrompts`: a weighted sum of the prompt embeddings of several texts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Role
from sdprobe.core.text import Text


class MixPrompts(Transform):
    """Replace the prompt embeddings by a weighted sum of those of several texts.

    The weights may have any sign and any sum. In models whose denoiser also gets one vector for the whole prompt
    (Stable Diffusion XL and 3, Flux), this vector is mixed too: with weight 1 on another text, the image is that
    text's. On PixArt, whose denoiser also gets an attention mask of the tokens, the mask stays that of the prompt.

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
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative prompts.

    Raises:
        ValueError: for an empty mixture; in a run of a model that is shown as many tokens as a text has (Qwen-Image),
            for a text that has another number of tokens than the longest prompt.
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
        # Encode as many texts as the run does: an encoder's last bits may depend on the batch size.
        encoded = {other: text.encode([other] * len(x)) for other in self.weights}
        for other, own in encoded.items():
            if own.shape != x.shape:
                raise ValueError(
                    f"{self!r} adds token to token, but {other!r} has {own.shape[1]} tokens and the longest prompt "
                    f"{x.shape[1]}: this model is shown as many as a text has. Write texts of the same number of tokens"
                )
        first, *others = (weight * encoded[other] for other, weight in self.weights.items())
        return sum(others, start=first)
