"""`ConceptOutputs`: how alike the outputs of attention are at each place and for each of some concepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.attention_call import per_head
from sdprobe.core.grid import Grid
from sdprobe.core.hook import Observer, patterns
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.prompt import WordNotInPrompt
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text
from sdprobe.core.written_values import text
from sdprobe.observe.sums_by_grid import SumsByGrid
from sdprobe.observe.tokens_beside import TokensBeside
from sdprobe.plot.resized import at_largest

Kind = Literal["share", "score"]


class ConceptOutputs(Observer):
    """Record how alike the output of attention at each place is to the output of some concepts: ConceptAttention.

    In joint attention (Stable Diffusion 3, Flux) the concepts are further tokens of the text, one for each. They see
    the picture and each other, and nothing sees them. For this the denoiser is called once more in each step, for the
    rows of the prompt; the run itself does not change. In cross-attention, where the text has no outputs of its own,
    a concept's output is its value: what a place would be given that attends to it alone. This takes no further call.
    On one CPU core a run with seven concepts takes 1.3 times as long with the embedded model, and 1.7 times with
    ``"shapes-joint"``.

    Concepts are words or phrases, in the prompt or not. `sdprobe.attributions.OutputSpace` makes heat maps of them.

    >>> import sdprobe
    >>> outputs = sdprobe.ConceptOutputs(["circle", "square", "background"])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[outputs], steps=2, seed=0, progress=False)
    >>> shares = [run[outputs].values(word, "share") for word in run[outputs].names[0]]
    >>> bool((sum(shares) - 1).abs().max() < 1e-5)  # at every place
    True

    Args:
        concepts: at least two words or phrases; None for every word of each prompt.
        modules: fnmatch patterns on module names. None in cross-attention for every site; in joint attention for the
            later half of those where the text has a stream of its own that goes on, as in the paper: in earlier ones
            outputs are less alike, and in the last block of Stable Diffusion 3 the text's are not trained. All can be
            chosen by name, such as ``"transformer_blocks.1[5-8].*"``, the authors' choice in Flux, and Flux's blocks of
            one stream, ``"single_transformer_blocks.*"``.
        strict: raise an error if a site cannot be seen; False only lists it in ``run.coverage``.

    Attributes:
        names: (in a run, like all that follow) the concepts, for each image.
        scores: by grid ``(h, w)``, ``[images, concepts, places]``: products of outputs, added up over sites and steps.
        shares: likewise, of their softmax over the concepts.
        counts: by grid, the number of sites and steps.

    Raises:
        ValueError: in a run, for less than two concepts, over which a softmax would be 1 everywhere.
        TypeError: for a concept that is no text.
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        concepts: Sequence[str] | None = None,
        *,
        modules: str | Sequence[str] | None = None,
        strict: bool = True,
    ) -> None:
        self.concepts = (concepts,) if isinstance(concepts, str) else concepts
        for concept in self.concepts or ():
            if not isinstance(concept, str):
                raise TypeError(f"a concept is a word or a phrase, such as 'circle', not {concept!r}")
        self.modules, self.strict = patterns(modules), strict

    def start(self, run: Run) -> None:
        self.run = run
        given = [run.prompt_of(image).words for image in range(run.settings.images)]
        self.names = [
            list(dict.fromkeys(map(str.lower, words if self.concepts is None else self.concepts))) for words in given
        ]
        if few := [names for names in self.names if len(names) < 2]:
            raise ValueError(
                f"{self!r} compares concepts with each other, and there is {'one' if few[0] else 'none'}: name others "
                f"too, such as 'background'"
            )
        self._refuse_brought(run)
        if not run.model.text_streams and "cross" not in map(run.model.attention_kind, run.model.modules.values()):
            run.model.refuse_beside()  # rather than record nothing
        self.scores: dict[Grid, Float[Tensor, "images concepts places"]] = {}
        self.shares: dict[Grid, Float[Tensor, "images concepts places"]] = {}
        self.counts: dict[Grid, int] = {}
        self._vectors: Shaped[Tensor, "images concepts width"] | None = None
        self._joint: set[str] = set()
        self._usual = _late(run.model.text_streams)

    def prompt_embeds(self, x: Tensor, text: Text) -> None:
        if text.role != "cond":
            return
        words = list(dict.fromkeys(word for names in self.names for word in names))
        found = {word: self._vector(word, embeds) for word, embeds in zip(words, text.encode(words), strict=True)}
        self._vectors = x.new_zeros(*self._known.shape, x.shape[-1])
        for image, names in enumerate(self.names):
            for number, word in enumerate(names):
                self._vectors[image, number] = found[word]

    def attention(self, attn: Attention, site: Site) -> None:
        if site.kind == "joint":  # looked at in a further call
            self._joint |= {site.name} if self.modules is not None or site.name in self._usual else set()
        elif any(row.role == "cond" for row in attn.rows):
            self._compare_values(attn, site)

    def noise_pred(self, x: Tensor, step: Step) -> None:
        if not self._joint:
            return
        images = [row.image for row in step.rows if row.role == "cond"]
        beside = TokensBeside(self._known[images], partial(self._look, images))
        with torch.no_grad():
            step.predict(step.latents, beside, role="cond", beside=self._given()[images])
        self._joint.clear()

    def compare(
        self,
        places: Shaped[Tensor, "rows heads places width"],
        concepts: Shaped[Tensor, "rows heads concepts width"],
        images: Sequence[int],
        grid: Grid,
    ) -> None:
        """Add the products of the outputs of places and concepts, and their softmax over the concepts."""
        scores = (places.float() @ concepts.float().mT).sum(1).mT  # the heads side by side are one vector
        known = self._known[images].to(scores.device)
        shares = scores.masked_fill(~known[..., None], -torch.inf).softmax(1)
        for sums, new in ((self.scores, scores * known[..., None]), (self.shares, shares)):
            if grid not in sums:
                sums[grid] = new.new_zeros(len(self.names), *new.shape[1:])
            sums[grid][images] += new
        self.counts[grid] = self.counts.get(grid, 0) + 1

    def restore(self, records: HookRecords, run: Run) -> None:
        read = SumsByGrid(records, run.settings.images)
        self.run, self.names = run, [[*map(text, words)] for words in read.names]
        self.scores, self.shares = map(read.sums, ("scores", "shares"))
        self.counts = read.counts("counts")

    def values(self, concept: str, kind: Kind = "share", image: int = 0) -> Float[Tensor, "*frames h w"]:
        """Return the mean over sites and steps, at the largest grid; smaller grids are resized bilinearly.

        Args:
            concept: one of the concepts recorded.
            kind: ``"share"``, the softmax over the concepts; ``"score"``, the products themselves, which have a sign.
            image: the image number.

        Raises:
            WordNotInPrompt: for a concept that was not recorded.
            ValueError: for another kind, and where the hook acted in no step.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {', '.join(map(repr, get_args(Kind)))}, not {kind!r}")
        prompt, sums = self.run.prompt_of(image), {"share": self.shares, "score": self.scores}[kind]
        if str(concept).lower() not in self.names[image]:
            raise WordNotInPrompt(
                f"{concept!r} is none of the concepts recorded for {prompt.text!r}: "
                f"{', '.join(map(repr, self.names[image]))}"
            )
        if not sums:
            raise ValueError("no outputs were recorded: the hook acted in no step")
        number = self.names[image].index(str(concept).lower())
        each = at_largest(total[image, number].unflatten(0, grid) for grid, total in sums.items())
        return each.sum(0) / sum(self.counts.values())

    def _look(self, images: Sequence[int], attn: Attention, site: Site, concepts: slice) -> None:
        """Compare at a site that was seen in the call of the loop, within the limits of this hook."""
        if site.grid is not None and site.name in self._joint:
            output = attn.output()
            self.compare(output[:, :, site.image], output[:, :, concepts], images, site.grid)

    @property
    def _known(self) -> Bool[Tensor, "images concepts"]:
        """Which concepts each image has; others have more."""
        counts = torch.tensor([len(names) for names in self.names])
        return torch.arange(int(counts.max())) < counts[:, None]

    def _given(self) -> Shaped[Tensor, "images concepts width"]:
        if self._vectors is None:
            raise ValueError(
                f"{self!r} encodes its concepts when the prompt is encoded, and this pipeline was given prompt_embeds: "
                f"give it the text"
            )
        return self._vectors

    def _vector(self, word: str, embeds: Shaped[Tensor, "tokens width"]) -> Shaped[Tensor, " width"]:
        """Return the mean embedding of a word's tokens, of T5's if there are any."""
        return embeds[list(self.run.model.read(word).positions_in_last(word))].mean(0)

    def _compare_values(self, attn: Attention, site: Site) -> None:
        if site.grid is None:
            return
        rows = [row for row, own in enumerate(attn.rows) if own.role == "cond"]
        images, vectors = [attn.rows[row].image for row in rows], self._given()
        context = vectors.new_zeros(len(attn.rows), *vectors.shape[1:])
        context[rows] = vectors[images]
        with torch.no_grad():
            _, value = attn.project(context)
            self.compare(attn.output()[rows], per_head(value, attn.query)[rows], images, site.grid)

    def _refuse_brought(self, run: Run) -> None:
        brought = {word.lower() for _, live in run.records for word in getattr(live, "brings", {})}
        if found := [name for names in self.names for name in names if any(word in name for word in brought)]:
            raise ValueError(
                f"{found[0]!r} has a word that a hook adds to the prompt; name concepts in the model's own"
            )


def _late(streams: Sequence[str]) -> frozenset[str]:
    """Return the later half of the modules where the text has a stream of its own that goes on."""
    return frozenset(streams[(len(streams) + 1) // 2 :] or streams)
