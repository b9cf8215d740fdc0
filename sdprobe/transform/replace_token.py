"""`ReplaceToken`: replace a word's token embedding by another word's."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sdprobe.core.concept import Concept, load_concept
from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Role
from sdprobe.core.text import Text
from sdprobe.transform.word_transform import AtWord, Vectors

FILES = (".safetensors", ".bin", ".pt")


class ReplaceToken(AtWord):
    """Replace a word's token embedding by another word's, or by a vector, before position embeddings are added.

    >>> import sdprobe
    >>> swap = sdprobe.ReplaceToken("circle", with_="square")
    >>> model = sdprobe.load()
    >>> swapped = sdprobe.sample(model, "a red circle", hooks=[swap], steps=3, seed=0, progress=False)
    >>> written = sdprobe.sample(model, "a red square", steps=3, seed=0, progress=False)
    >>> bool((swapped.latents == written.latents).all())
    True

    Args:
        word: the word, or phrase, to replace.
        with_: a word; a vector ``[width]`` or vectors ``[tokens, width]``; a `Concept`; or its file (a path, or a text
            that ends in one of its suffixes). One token, used for each of the word's tokens, or as many as the word
            has.
        occurrence: which occurrence, counted from 0; None for all.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: if no prompt of the run has the word; the message lists the prompt's words.
        ValueError: if the numbers of tokens, or the widths, do not fit.
    """

    def __init__(
        self,
        word: str,
        with_: str | Tensor | Concept | Path,
        occurrence: int | None = None,
        role: Role = "cond",
    ) -> None:
        super().__init__(word, occurrence, role)
        is_file = isinstance(with_, Path) or (isinstance(with_, str) and with_.endswith(FILES))
        self.with_ = load_concept(with_) if is_file else with_  # type: ignore[arg-type]
        if isinstance(self.with_, Tensor):
            refuse_not_finite("with_", self.with_)

    def vectors(self, own: Vectors, text: Text) -> Vectors:
        if isinstance(self.with_, str):
            return self.fitting(text.lookup(self.with_), own, repr(self.with_))
        if isinstance(self.with_, Concept):
            if text.encoder not in self.with_.vectors:
                raise ValueError(
                    f"{self.with_!r} holds nothing for {text.encoder}, only for {', '.join(self.with_.vectors)}"
                )
            return self.with_.vectors[text.encoder]
        assert isinstance(self.with_, Tensor)
        return self.with_.unsqueeze(0) if self.with_.ndim == 1 else self.with_
