"""`AddVector`: add a vector to a word's token embedding."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Role, Run
from sdprobe.core.text import Text
from sdprobe.transform.word_transform import AtWord, Vectors


class AddVector(AtWord):
    """Add a vector to the token embedding of a word, before position embeddings are added.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> red, blue = sdprobe.embed(model, ["red", "blue"]).token[:, 1]
    >>> bluer = sdprobe.AddVector("red", blue - red, scale=0.5)
    >>> run = sdprobe.sample(model, "a red circle", hooks=[bluer], steps=3, seed=0, progress=False)

    Args:
        word: the word or phrase to change.
        vector: ``[width]`` for all of its tokens, or ``[tokens, width]``. For a model with several text encoders, a
            vector by encoder name, ``{"text_encoder": ..., "text_encoder_2": ...}``; other encoders are unchanged.
        scale: the factor of the vector.
        occurrence: which occurrence, counted from 0; None for all.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: if no prompt of the run has the word.
        ValueError: if the shape of the vector does not fit the word's tokens.
    """

    def __init__(
        self,
        word: str,
        vector: Tensor | Mapping[str, Tensor],
        scale: float = 1.0,
        occurrence: int | None = None,
        role: Role = "cond",
    ) -> None:
        super().__init__(word, occurrence, role)
        self.vector, self.scale = vector, scale
        for name, own in {"the vector": vector}.items() if isinstance(vector, Tensor) else vector.items():
            refuse_not_finite(name, own)
        refuse_not_finite("scale", scale)

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        vector = self.vector if isinstance(self.vector, Tensor) else self.vector.get(text.encoder)
        if vector is None:
            return own
        shift = vector.unsqueeze(0) if vector.ndim == 1 else vector
        return own + self.scale * self.fitting(shift, own, f"the vector for {text.encoder}")

    def start(self, run: Run) -> None:
        super().start(run)
        named = [] if isinstance(self.vector, Tensor) else list(self.vector)
        if unknown := [name for name in named if name not in run.model.text_encoders]:
            raise ValueError(f"this model has no {unknown[0]!r}; its encoders: {', '.join(run.model.text_encoders)}")
