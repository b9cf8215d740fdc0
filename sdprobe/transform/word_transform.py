"""Transforms that act on the token embeddings of one word."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Role, Run, Text

Vectors = Shaped[Tensor, "tokens width"]


class AtWord(Transform):
    """Gives the tokens of a word of the prompt other embeddings, before positions are added.

    The prompt keeps its text, its length and its word positions: only what the encoder reads there changes. Derive
    from it and say what is to stand there:

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
        occurrence: which occurrence, 0 the first; None for all of them.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: where no prompt of the run holds the word; the message lists the words there are.
        ValueError: where what is to stand there does not fit the word's tokens.
    """

    def __init__(self, word: str, occurrence: int | None = None, role: Role = "cond") -> None:
        self.word, self.occurrence, self.role = word, occurrence, role

    @abstractmethod
    def vectors(self, own: Vectors, text: Text) -> Vectors:
        """What is to stand for the word: as many vectors as it has tokens, or one for all of them.

        Args:
            own: what stands there, ``[tokens, width]``.
            text: where we are.
        """

    def start(self, run: Run) -> None:
        prompts = run.negative_prompts if self.role == "uncond" else run.prompts
        if not any(prompt.occurrences(self.word) for prompt in prompts):
            prompts[0].positions(self.word, self.occurrence)  # says which words there are

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
        """Vectors that can stand for the word; ValueError, by the name they are known by, where they cannot."""
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
