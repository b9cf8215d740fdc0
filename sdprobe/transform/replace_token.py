"""Swap a word's input embedding for another word's: the smallest edit a prompt can have."""

from __future__ import annotations

from torch import Tensor

from sdprobe.hook import Transform
from sdprobe.run import Role, Run, Text


class ReplaceToken(Transform):
    """Give a word of the prompt the token embedding of another word, before positions are added.

    The prompt keeps its text, its length and its word positions: only what the encoder reads there changes.

    >>> import sdprobe
    >>> swap = sdprobe.ReplaceToken("circle", with_="square")
    >>> model = sdprobe.load()
    >>> swapped = sdprobe.sample(model, "a red circle", hooks=[swap], steps=3, seed=0, progress=False)
    >>> written = sdprobe.sample(model, "a red square", steps=3, seed=0, progress=False)
    >>> bool((swapped.latents == written.latents).all())
    True

    Args:
        word: the word, or phrase, to replace.
        with_: the word to replace it with. It must be one token (which then stands at each of the word's tokens) or
            as many as the word has.
        occurrence: which occurrence, 0 the first; None for all of them.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.

    Raises:
        WordNotInPrompt: where no prompt of the run holds the word; the message lists the words there are.
        ValueError: where the numbers of tokens do not fit.
    """

    def __init__(self, word: str, with_: str, occurrence: int | None = None, role: Role = "cond") -> None:
        self.word, self.with_, self.occurrence, self.role = word, with_, occurrence, role

    def start(self, run: Run) -> None:
        prompts = run.negative_prompts if self.role == "uncond" else run.prompts
        if not any(prompt.occurrences(self.word) for prompt in prompts):
            prompts[0].positions(self.word, self.occurrence)  # says which words there are

    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != self.role:
            return x
        new = text.lookup(self.with_).to(x)
        replaced = x.clone()
        for i, prompt in enumerate(text.prompts):
            found = prompt.occurrences(self.word)
            if not found:
                continue
            chosen = found if self.occurrence is None else (prompt.positions(self.word, self.occurrence),)
            for positions in chosen:
                if len(new) not in (1, len(positions)):
                    raise ValueError(
                        f"{self.with_!r} is {len(new)} tokens and {self.word!r} is {len(positions)}: a replacement "
                        f"is one token, or as many as the word has"
                    )
                replaced[i, list(positions)] = new
        return replaced
