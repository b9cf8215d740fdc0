"""`ReadLayer`: the diffusion lens: generate an image from a layer inside the text encoder."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Role, Run, side_of
from sdprobe.core.text import Text


class ReadLayer(Transform):
    """Condition the denoiser on the hidden states of one text encoder layer, after the encoder's final norm.

    One run per layer shows how the encoder computes its result. Changes by transforms at `token_embeds` are included.
    The vector of the whole prompt (Stable Diffusion XL and 3, Flux) has no layers and stays the same.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> settings = {"steps": 3, "seed": 0, "progress": False}
    >>> runs = [
    ...     sdprobe.sample(model, "a red circle", hooks=[sdprobe.ReadLayer(layer)], **settings) for layer in range(3)
    ... ]
    >>> whole = sdprobe.sample(model, "a red circle", **settings)
    >>> [bool((run.latents == whole.latents).all()) for run in runs]
    [False, False, True]

    Args:
        layer: 0 for the input embeddings, k for the output of layer k; negative numbers count from the last (-1).
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative prompts.

    Raises:
        ValueError: for a layer that the encoder does not have, and in a run whose prompts have weights of words
            (``weights=True``), which the layers have not.

    Source: Toker et al. 2024, "Diffusion Lens: Interpreting Text Encoders in Text-to-Image Pipelines", §3.
    """

    def __init__(self, layer: int, role: Role = "cond") -> None:
        self.layer, self.role = layer, role

    def start(self, run: Run) -> None:
        settings, negative = run.settings, side_of(self.role) == "uncond"
        written = settings.negative_prompt if negative else settings.prompt
        plain = run.negative_prompts if negative else run.prompts
        if settings.weights and any(own != prompt.text for own, prompt in zip(written, plain, strict=True)):
            raise ValueError(
                "ReadLayer takes the states of a layer, where words have no weights yet: write the prompt without them"
            )

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != self.role:
            return x
        layers = text.layers()
        if not -len(layers) <= self.layer < len(layers):
            raise ValueError(
                f"layer {self.layer} is none of {text.encoder}'s 0 to {len(layers) - 1}, 0 being its input"
            )
        return layers[self.layer].to(x.dtype)
