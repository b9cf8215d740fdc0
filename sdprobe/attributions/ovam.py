"""`Ovam`: open-vocabulary attention maps, of any text after the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.attributions.learned_token import LearnedToken
from sdprobe.core.attribution import Attribution, Word, WordAsked, record_of
from sdprobe.core.compose import Hooks
from sdprobe.core.concept import Concept
from sdprobe.core.prompt import SPECIAL, Prompt
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.denoiser.keys_of_context import keys_of_context
from sdprobe.model.loading import load
from sdprobe.model.text.shown_text import ShownText, reading_texts
from sdprobe.observe.attention_of_queries import attention_maps
from sdprobe.observe.attention_queries import AttentionQueries
from sdprobe.transform.use_concept import UseConcept

Read = Callable[[Sequence[str]], list[ShownText]]


@dataclass(frozen=True)
class Ovam(Attribution):
    """The attention that the picture would pay to a text that is shown in place of the prompt.

    O_w(p) = mean over sites s, heads h, steps t and tokens k of w of softmax(Q_st K_s(X)ᵀ / √d)[h, p, k]

    Q are the queries that were recorded, and K_s(X) the keys that site s makes of X, the text w as the model's own text
    encoder reads it as a prompt. The softmax runs over all tokens of X that the denoiser looks at: start, words, end,
    and padding where it is not masked, as it is in PixArt. Sites of smaller grids are resized to the largest one,
    bilinearly. So with the run's prompt as ``context``, the map of a word of it is that of `Mean`.

    With negative texts n₁, n₂, ..., the keys of their words stand beside those of X: the softmax runs over the tokens
    of X and the words of every n, and a place that looks at a word of n looks less at w. Nothing is subtracted.

    >>> import sdprobe
    >>> method = sdprobe.attributions.Ovam(context="a photo of a {}", negative=["background"])
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[method.hooks()], steps=2, seed=0, progress=False
    ... )
    >>> method.heat_map(run, "ring")
    HeatMap('ring', 16×16)

    Args:
        context: a sentence in which the word stands, or with ``{}`` where it is to stand. Then only the word's own
            tokens are averaged. None for the word alone.
        negative: further texts that are shown beside. A context with ``{}`` is theirs too; beside another one they are
            read alone.
        tokens: words that are not read but stand for a `LearnedToken`: its object vector is the word, shown beside its
            background vector.
        model: the model, for a run that holds none: one that was opened, or that comes out of a pickle.

    Raises:
        ValueError: for a run without `AttentionQueries`, or without a model; for a model with other weights than the
            run's; for a text that the encoder cuts off.
        WordNotInPrompt: for a word that the context does not hold.
        RuntimeError: if it is asked for by a hook while the run is under way.

    Concepts that `UseConcept` brought to the run are read too. Other transforms of the run's text or attention do not
    act on the text that is shown; what they did to the queries is recorded.

    Differences from the authors' code: there the text is encoded without padding, so the softmax has fewer keys; sums
    stand in place of means; and the middle block is left out, as ``AttentionQueries(modules=...)`` can do.

    Source: Marcos-Manchón et al. 2024, "Open-Vocabulary Attention Maps with Token Optimization for Semantic
    Segmentation in Diffusion Models" (CVPR), section 3. Negative texts are ours.
    """

    context: str | None = None
    negative: Sequence[str] = ()
    tokens: Mapping[str, LearnedToken] = field(default_factory=dict, hash=False)
    model: Any = field(default=None, repr=False, compare=False)

    parts: ClassVar[tuple[str, ...]] = ("step", "layer", "head")

    def __post_init__(self) -> None:
        given = (self.negative,) if isinstance(self.negative, str) else tuple(self.negative)
        object.__setattr__(self, "negative", given)

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks(AttentionQueries())

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        if not isinstance(asked.word, str):
            raise ValueError(f"ovam shows a text, so give the text itself and no token position, not {asked.word!r}")
        queries, model = record_of(run, AttentionQueries, self), model_of(run, self.model)
        with reading_texts(model, _brought(run)) as read, torch.no_grad():
            vectors, columns = self._shown(read, run, model, asked.word)
            keys = {layer: keys_of_context(model, layer, vectors) for layer in queries.scales}
        sites = queries.sites(asked.image, asked.step, asked.layer)
        return attention_maps(((own, keys[own.layer]) for own in sites), [columns], asked.head)[0]

    def _shown(self, read: Read, run: Run, model: Model, word: str) -> tuple[Float[Tensor, "tokens width"], list[int]]:
        """Return what is shown in place of the prompt, and where the word stands in it."""
        told = [own for own in (word, *self.negative) if own not in self.tokens]
        sentences = {own: self._sentence(own, negative=own != word) for own in told}
        _refuse_lost_concepts(run, model, sentences.values())
        texts = dict(zip(sentences, read(list(sentences.values())) if sentences else [], strict=True))
        places = {own: word_places(text.prompt, own) for own, text in texts.items()}
        if word in texts:
            seen = texts[word].seen
            shown, columns = [texts[word].embeds[seen]], [seen.index(place) for place in places[word]]
        else:
            shown, columns = [self.tokens[word].vectors], [1]
        for own in self.negative:
            shown.append(texts[own].embeds[places[own]] if own in texts else self.tokens[own].vectors[1:])
        return torch.cat([own.to(model.device, model.dtype) for own in shown]), columns

    def _sentence(self, text: str, negative: bool) -> str:
        if self.context is None or (negative and "{}" not in self.context):
            return text
        return self.context.replace("{}", text)


def model_of(run: Run, given: Any) -> Model:
    """Return the model that made a run, given or its own. Raises ValueError for a run without one, and for another."""
    if given is None and "model" not in vars(run):
        raise ValueError(
            "the keys of a text are made by the model, which a run that was opened or unpickled does not hold: "
            f"give it, as in heat_map_of(text, model=sdprobe.load(...)). The run was made by {run.model_name}"
        )
    found = load(run.model if given is None else given)
    made_by, own = (own.provenance.weights for own in (run, found)) if given is not None else (None, None)
    if made_by != own and None not in (made_by, own):
        raise ValueError(f"{found!r} has other weights than the model that made this run, {run.model_name}")
    return found


def word_places(prompt: Prompt, word: str) -> list[int]:
    """Return where a word stands in a text that is shown; of the text itself, where its words stand.

    Raises:
        ValueError: for a text that the encoder cuts off, and for one without words.
        WordNotInPrompt: for a word that the text does not hold.
    """
    if prompt.cut:
        raise ValueError(f"{prompt.text!r} is longer than what is read of it: it is cut off before {prompt.cut[0]!r}")
    if word != prompt.text or word in SPECIAL:
        return list(prompt.positions(word))
    found = [place for place, role in enumerate(prompt.roles) if role == "word"]
    if not found:
        raise ValueError(f"{word!r} holds no word to attribute anything to")
    return found


def _brought(run: Run) -> dict[str, Concept]:
    """Return the concepts that hooks brought to a run, by word."""
    return {word: own for _, live in run.records for word, own in getattr(live, "brings", {}).items()}


def _refuse_lost_concepts(run: Run, model: Model, texts: Iterable[str]) -> None:
    """Raise ValueError for the word of a concept that a saved run does not hold: it would be read as letters."""
    lost = [live.token for _, live in run.records if isinstance(live, UseConcept) and not live.brings]
    for token in lost:
        known = token in model.tokenizer.get_vocab()
        if not known and any(token.lower() in text.lower() for text in texts):
            raise ValueError(
                f"{token!r} is a concept's word, and a saved run does not hold its vectors: load them into the model "
                f"first, with model.pipe.load_textual_inversion"
            )
