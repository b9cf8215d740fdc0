"""`ConceptAttentionVotes`: for which concept's words each head of cross-attention would look most, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Observer
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.text import Text


class ConceptAttentionVotes(Observer):
    """Count for each head how often its attention goes to the words of a concept more than to those of the others.

    At each step and site of cross-attention, the picture's queries are shown the words of all concepts, in place of the
    prompt: the softmax runs over all their tokens. The mean over places, then over the tokens of a word, then over the
    words of a concept, is the head's attention to the concept; the concept with most gets its vote. The run does not
    change.

    >>> import sdprobe
    >>> votes = ConceptAttentionVotes({"colour": ["red", "blue"], "shape": ["circle", "star"]})
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[votes], steps=2, seed=0, progress=False)
    >>> shares = run[votes].shares(image=0)
    >>> len(shares), shares["mid_block.attentions.0.transformer_blocks.0.attn2"].shape
    (7, torch.Size([4, 2]))

    Args:
        concepts: the words of each concept. Each word is encoded alone, as a prompt.

    Raises:
        ValueError: for fewer than two concepts, and for one without words; in a run, for a model of joint attention,
            and for a word that the encoder does not read as one (`sdprobe.core.prompt.WordNotInPrompt`).

    Source: Park et al. 2025, "Cross-Attention Head Position Patterns Can Align with Human Visual Concepts in
    Text-to-Image Generative Models", section 3. There, one word of each concept is drawn anew for each vote; here, all
    words are shown at once, so that nothing is drawn.
    """

    kinds = ("cross",)

    def __init__(self, concepts: Mapping[str, Sequence[str]]) -> None:
        self.concepts = {str(name): tuple(words) for name, words in concepts.items()}
        if len(self.concepts) < 2 or not all(self.concepts.values()):
            raise ValueError(
                f"heads vote between at least two concepts, each with words, as in {{'colour': ['red', 'blue'], "
                f"'shape': ['circle', 'star']}}, not {dict(concepts)!r:.200}"
            )

    def start(self, run: Run) -> None:
        self._counts: dict[str, Float[Tensor, "images heads concepts"]] = {}
        self._steps: dict[str, int] = {}
        self._words: Float[Tensor, "tokens width"] | None = None
        self._weights = torch.zeros(0)

    def prompt_embeds(self, x: Tensor, text: Text) -> None:
        if text.role != "cond":
            return
        vectors, of_concept = [], []
        for k, words in enumerate(self.concepts.values()):
            for word in words:
                positions = list(text.run.model.read(word).positions(word))
                vectors.append(text.encode([word])[0, positions])
                weight = torch.zeros(len(self.concepts), len(positions))
                weight[k] = 1 / (len(positions) * len(words))
                of_concept.append(weight)
        self._words, self._weights = torch.cat(vectors), torch.cat(of_concept, dim=1)

    def attention(self, attn: Attention, site: Site) -> None:
        assert self._words is not None  # the prompts are encoded before the steps
        context = self._words.to(attn.query).expand(len(attn.query), -1, -1)
        # The mask of a call is that of the prompt's tokens, which are not those shown here.
        shown = replace(attn, mask=None).with_context(context)
        to_token = shown.probs(rows="cond").float().mean(2).cpu()
        votes = (to_token @ self._weights.T).argmax(-1)
        counted = torch.nn.functional.one_hot(votes, len(self.concepts)).float()
        before = self._counts.get(site.name)
        self._counts[site.name] = counted if before is None else before + counted
        self._steps[site.name] = self._steps.get(site.name, 0) + 1

    def shares(self, image: int = 0) -> dict[str, Float[Tensor, "heads concepts"]]:
        """Return for each site the share of votes of each head and concept; they add to 1 over the concepts.

        Args:
            image: the number of the image.
        """
        return {name: counts[image] / self._steps[name] for name, counts in self._counts.items()}


def shuffled(concepts: Mapping[str, Sequence[str]], seed: int) -> dict[str, tuple[str, ...]]:
    """Return the words dealt at random to the concepts, to each as many as it had.

    >>> dealt = shuffled({"colour": ["red", "blue"], "shape": ["circle", "star"]}, seed=0)
    >>> list(map(len, dealt.values())), sorted(word for words in dealt.values() for word in words)
    ([2, 2], ['blue', 'circle', 'red', 'star'])
    """
    words = [word for own in concepts.values() for word in own]
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed)).tolist()
    dealt = iter(words[k] for k in order)
    return {name: tuple(next(dealt) for _ in own) for name, own in concepts.items()}
