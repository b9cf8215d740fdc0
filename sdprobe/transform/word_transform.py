"""`AtWord`: base class of transforms of one word's token embeddings."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Role, Run
from sdprobe.core.text import Text

Vectors = Shaped[Tensor, "tokens width"]


class AtWord(Transform):
    """Base class: replace the token embeddings of a word of the prompt, before position embeddings are added.

    The prompt keeps its text, its length and its word positions; only the encoder's input changes. Derive a class and
    define `vectors`:

    >>> import sdprobe
    >>> from sdprobe.transform.word_transform import AtWord
    >>> class Negate(AtWord):
    ...     def vectors(self, own, text):
    ...         return -own
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[Negate("red")], steps=3, progress=False)
    >>> run.images[0].size
    (64, 64)

    Args:
        word: the word, or phrase, to change.
        occurrence: which occurrence, counted from 0; None for all.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: if no prompt of the run has the word; the message lists the prompt's words.
        ValueError: if the number or width of the new embeddings does not fit the word's tokens.
    """

    def __init__(self, word: str, occurrence: int | None = None, role: Role = "cond") -> None:
        self.word, self.occurrence, self.role = word, occurrence, role

    @abstractmethod
    def vectors(self, own: Vectors, text: Text) -> Vectors:
        """Return the new embeddings: one for each token of the word, or one for all of them.

        Args:
            own: the present embeddings, ``[tokens, width]``.
            text: the encoder, prompts and role.
        """

    def start(self, run: Run) -> None:
        prompts = run.negative_prompts if self.role == "uncond" else run.prompts
        if not any(prompt.occurrences(self.word) for prompt in prompts):
            prompts[0].positions(self.word, self.occurrence)  # raises an error that lists the words

    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != self.role:
            return x
        changed = x.clone()
        for i, prompt in enumerate(text.prompts):
            found = prompt.occurrences(self.word)
            if found and self.occurrence is not None:
                found = (prompt.positions(self.word, self.occurrence),)
            for positions in found:
                own = x[i, list(positions)]
                changed[i, list(positions)] = self.fitting(self.vectors(own, text), own)
        return changed

    def fitting(self, new: Vectors, own: Vectors, name: str = "what is to stand there") -> Vectors:
        """Return the new vectors with dtype and device of the present ones. Raises ValueError if they do not fit."""
        if new.ndim != 2 or new.shape[-1] != own.shape[-1]:
            raise ValueError(
                f"{name} must be [tokens, width] = [{' or '.join(map(str, dict.fromkeys((len(own), 1))))}, "
                f"{own.shape[-1]}], not {list(new.shape)}"
            )
        if len(new) not in (1, len(own)):
            raise ValueError(
                f"{name} is {len(new)} tokens and {self.word!r} is {len(own)}: it must be one token, or as many as the "
                f"word has"
            )
        return new.to(own)
