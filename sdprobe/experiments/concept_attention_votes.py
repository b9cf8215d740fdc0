"""`ConceptAttentionVotes`: for which concept's words each attention head would look most, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Observer
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text
from sdprobe.experiments.parts_of_model import cross_attention_of
from sdprobe.observe.tokens_beside import TokensBeside


class ConceptAttentionVotes(Observer):
    """Count for each head how often its attention goes to the words of a concept more than to those of the others.

    At each step and site of cross-attention, the picture's queries are shown the words of all concepts, in place of the
    prompt: the softmax runs over all their tokens. The mean over places, then over the tokens of a word, then over the
    words of a concept, is the head's attention to the concept; the concept with most gets its vote. The run does not
    change.

    In joint attention the keys of a word depend on the picture. There the words are further tokens of the text in one
    more call of the denoiser in each step, for the rows of the prompt: they see the picture and each other, and nothing
    sees them. Where there are several encoders, they are the tokens of the last, T5.

    >>> import sdprobe
    >>> votes = ConceptAttentionVotes({"colour": ["red", "blue"], "shape": ["circle", "star"]})
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[votes], steps=2, seed=0, progress=False)
    >>> shares = run[votes].shares(image=0)
    >>> len(shares), shares["mid_block.attentions.0.transformer_blocks.0.attn2"].shape
    (7, torch.Size([4, 2]))

    Args:
        concepts: the words of each concept. Each word is encoded alone, as a prompt.

    Raises:
        ValueError: for fewer than two concepts, and for one without words; in a run, for a model whose text has no
            place for further tokens, and for a word that the encoder does not read as one
            (`sdprobe.core.prompt.WordNotInPrompt`).

    Source: Park et al. 2025, "Cross-Attention Head Position Patterns Can Align with Human Visual Concepts in
    Text-to-Image Generative Models", section 3. There, one word of each concept is drawn anew for each vote; here, all
    words are shown at once, so that nothing is drawn. Joint attention, which is not in the paper, is after Helbling et
    al. 2025, "ConceptAttention: Diffusion Transformers Learn Highly Interpretable Features", section 4.
    """

    kinds = ("cross", "joint")

    def __init__(self, concepts: Mapping[str, Sequence[str]]) -> None:
        self.concepts = {str(name): tuple(words) for name, words in concepts.items()}
        if len(self.concepts) < 2 or not all(self.concepts.values()):
            raise ValueError(
                f"heads vote between at least two concepts, each with words, as in {{'colour': ['red', 'blue'], "
                f"'shape': ['circle', 'star']}}, not {dict(concepts)!r:.200}"
            )

    def start(self, run: Run) -> None:
        if not cross_attention_of(run.model):
            run.model.refuse_beside()
        self._counts: dict[str, Float[Tensor, "images heads concepts"]] = {}
        self._steps: dict[str, int] = {}
        self._words: Float[Tensor, "tokens width"] | None = None
        self._weights = torch.zeros(0)
        self._joint: set[str] = set()

    def prompt_embeds(self, x: Tensor, text: Text) -> None:
        if text.role != "cond":
            return
        vectors, of_concept = [], []
        for k, words in enumerate(self.concepts.values()):
            for word in words:
                positions = list(text.run.model.read(word).positions_in_last(word))
                vectors.append(text.encode([word])[0, positions])
                weight = torch.zeros(len(self.concepts), len(positions))
                weight[k] = 1 / (len(positions) * len(words))
                of_concept.append(weight)
        self._words, self._weights = torch.cat(vectors), torch.cat(of_concept, dim=1)

    def attention(self, attn: Attention, site: Site) -> None:
        if site.kind == "joint":  # looked at in a further call
            self._joint.add(site.name)
            return
        if not any(row.role == "cond" for row in attn.rows):
            return  # a pipeline may call its denoiser for each role separately
        # The mask of a call is that of the prompt's tokens, which are not those shown here.
        shown = replace(attn, mask=None).with_context(self._for(attn.query))
        self._count(site, shown.probs(rows="cond"))

    def noise_pred(self, x: Tensor, step: Step) -> None:
        if not self._joint:
            return
        beside = self._for(x[: sum(row.role == "cond" for row in step.rows)])
        known = torch.ones(beside.shape[:2], dtype=torch.bool)
        with torch.no_grad():
            step.predict(step.latents, TokensBeside(known, self._look), role="cond", beside=beside)
        self._joint.clear()

    def _look(self, attn: Attention, site: Site, words: slice) -> None:
        if site.name in self._joint:  # seen in the call of the loop, within the limits of this hook
            shown = replace(attn, mask=None, key=attn.key[:, :, words], value=attn.value[:, :, words], _made={})
            self._count(site, shown.probs(queries=site.image))

    def _for(self, rows: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "rows tokens width"]:
        assert self._words is not None  # the prompts are encoded before the steps
        return self._words.to(rows).expand(len(rows), -1, -1)

    def _count(self, site: Site, probs: Shaped[Tensor, "images heads places tokens"]) -> None:
        to_token = probs.float().mean(2).cpu()
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
