"""Use what textual inversion has learned, for one run."""

from __future__ import annotations

from pathlib import Path

from sdprobe.core.concept import Concept, concepts_in, load_concept
from sdprobe.core.hook import Transform
from sdprobe.core.run import Run


class UseConcept(Transform):
    """Give the prompts of a run a word for a learned concept: wherever it is written, its vectors are read.

    The result is, bit for bit, that of diffusers' `load_textual_inversion`, but nothing is left in the tokenizer or
    the encoder. A concept of n vectors is n tokens of the prompt and one word: ``heat_map("<my-style>")`` is the map
    of them together, ``heat_map(position)`` that of one. In negative prompts it works the same, and other hooks find
    the vectors by its name, as those of any word.

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
        concept: a `Concept`, or the file of one (see `load_concept`).
        token: what to call it in the prompts, in letters of either case; None for the token its file names. Of a file
            of several tokens it is the one to take.

    Raises:
        WordNotInPrompt: where no prompt of the run, nor a negative one, holds the token.
        ValueError: without a token; for a token that the tokenizer, or another hook of the run, has already; for a
            concept that was learned for other encoders, or embeddings of another width; where a prompt would be read
            with some of its vectors only.

    Source: Gal et al. 2022, An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual
    Inversion, section 4.
    """

    def __init__(self, concept: Concept | str | Path, token: str | None = None) -> None:
        if isinstance(concept, (str, Path)):
            held = concepts_in(concept)
            # Of a file of one, the token is what to call it.
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
            run.prompts[0].positions(self.token)  # says which words there are
        names = {self.token.lower(), *(f"{self.token}_{i}".lower() for i in range(1, len(self.concept)))}
        for prompt in prompts:
            for positions in prompt.occurrences(self.token):
                read = names & {prompt.spelt(position).lower() for position in positions}
                if len(read) < len(self.concept):
                    raise ValueError(
                        f"of the {len(self.concept)} vectors of {self.token!r} only {len(read)} would be read in "
                        f"{prompt.text!r}: write it within the first {len(prompt.ids)} tokens"
                    )
