"""`UseConcept`: use a learned concept in one run."""

from __future__ import annotations

from pathlib import Path

from sdprobe.core.concept import Concept, concepts_in, load_concept
from sdprobe.core.hook import Transform
from sdprobe.core.run import Run


class UseConcept(Transform):
    """Add a word for a learned concept to the prompts of a run; the encoder reads its vectors as token embeddings.

    The result equals that of diffusers' `load_textual_inversion`, bit for bit, but the tokenizer and the encoder are
    unchanged after the run. A concept of n vectors is n tokens of the prompt and one word: ``heat_map("<my-style>")``
    is the map of all of them, ``heat_map(position)`` that of one. It works in negative prompts too, and other hooks
    find the vectors by its name, like those of any word.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> two_rows = model.pipe.text_encoder.get_input_embeddings().weight[330:332]  # in place of learned ones
    >>> concept = sdprobe.Concept({"text_encoder": two_rows}, "<my-style>")
    >>> use, maps = sdprobe.UseConcept(concept), sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(model, "a <my-style> circle", hooks=[use, maps], steps=3, seed=0, progress=False)
    >>> run.prompts[0].positions("<my-style>"), run[maps].heat_map("<my-style>")
    ((2, 3), HeatMap('<my-style>', 16×16))
    >>> "<my-style>" in model.tokenizer.get_vocab()
    False

    Args:
        concept: a `Concept`, or its file (see `load_concept`).
        token: its name in the prompts, upper or lower case; None for the token that its file names. For a file with
            several tokens, the one to use.

    Raises:
        WordNotInPrompt: if no prompt or negative prompt of the run has the token.
        ValueError: without a token; for a token that the tokenizer, or another hook of the run, already has; for a
            concept that was learned for other encoders, or for embeddings of another width; if the context would cut
            off some of its vectors in a prompt.

    Source: Gal et al. 2022, An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual
    Inversion, section 4.
    """

    def __init__(self, concept: Concept | str | Path, token: str | None = None) -> None:
        if isinstance(concept, (str, Path)):
            held = concepts_in(concept)
            # For a file with one concept, the token is its name in the prompts.
            concept = load_concept(concept, token if token in held or len(held) > 1 else None)
        self.concept = concept
        if not isinstance(self.concept, Concept):
            raise TypeError(f"a concept is a Concept or a file of one, not {type(concept).__name__}")
        named = self.concept.token if token is None else token
        if named is None:
            raise ValueError("the concept's file names no token: UseConcept(concept, token='<my-style>')")
        if not isinstance(named, str) or named != named.strip() or not named:
            raise ValueError(f"a concept's token is a word such as '<my-style>', not {named!r}")
        self.token = named
        self.brings = {named: self.concept}

    def start(self, run: Run) -> None:
        prompts = (*run.prompts, *run.negative_prompts)
        if not any(prompt.occurrences(self.token) for prompt in prompts):
            run.prompts[0].positions(self.token)  # raises an error that lists the words
        names = {self.token.lower(), *(f"{self.token}_{i}".lower() for i in range(1, len(self.concept)))}
        for prompt in prompts:
            for positions in prompt.occurrences(self.token):
                read = names & {prompt.spelt(position).lower() for position in positions}
                if len(read) < len(self.concept):
                    raise ValueError(
                        f"of the {len(self.concept)} vectors of {self.token!r} only {len(read)} would be read in "
                        f"{prompt.text!r}: write it within the first {len(prompt.ids)} tokens"
                    )
