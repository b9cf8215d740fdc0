"""`grammar`: the heat maps of a run by the grammar of its prompt: parts of speech, and pairs of head and dependent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.attributions.parse_words import Parse, parse_words
from sdprobe.core.attribution import Attribution
from sdprobe.core.attribution_registry import Method, attribution
from sdprobe.core.data_frame import data_frame
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.plot.heatmap import THRESHOLD, HeatMap
from sdprobe.plot.table import as_html, as_text


@dataclass(frozen=True, eq=False)
class WordInGrammar:
    """A word of a prompt, with its part of speech, its head and its heat map.

    Args:
        text: the word.
        part_of_speech: such as ``"NOUN"``.
        relation: to its head, such as ``"amod"``.
        first: the number of its first character in the prompt.
        head: the number of its head's first character; its own if it has no head.
        positions: its token positions.
        heat_map: its map.
    """

    text: str
    part_of_speech: str
    relation: str
    first: int
    head: int
    positions: tuple[int, ...]
    heat_map: HeatMap = field(repr=False)


@dataclass(frozen=True)
class Pair:
    """A head and its dependent, with the overlap of their binarised maps H and D.

    Args:
        head: the head.
        dependent: the dependent.
        relation: the dependent's relation to the head; empty for words that are not related.
        iod: intersection over dependent, |D∩H| / |D|; not a number for a map that is the same everywhere.
        ioh: intersection over head, |D∩H| / |H|.
        iou: intersection over union, |D∩H| / |D∪H|.
    """

    head: str
    dependent: str
    relation: str
    iod: float
    ioh: float
    iou: float


@dataclass(frozen=True, eq=False, repr=False)
class Grammar:
    """The heat maps of one image by the grammar of its prompt; prints as a table of its pairs.

    Attributes:
        prompt: the prompt.
        words: its words, in their order.
        left_out: the words that no map can be made of, with the reason.
        size: the height and width of the picture, at which maps are binarised.
        threshold: above which a map from 0 to 1 counts.
    """

    prompt: Prompt
    words: tuple[WordInGrammar, ...]
    left_out: Mapping[str, str]
    size: tuple[int, int]
    threshold: float = THRESHOLD

    def by_part_of_speech(self) -> dict[str, HeatMap]:
        """Return a heat map for each part of speech: the mean of its words' maps, each scaled from 0 to 1."""
        found: dict[str, list[HeatMap]] = {}
        for word in self.words:
            found.setdefault(word.part_of_speech, []).append(word.heat_map.normalized())
        return {
            name: HeatMap(torch.stack([own.values for own in maps]).mean(0), name, maps[0].picture)
            for name, maps in found.items()
        }

    def pairs(self) -> list[Pair]:
        """Return each word that has a head with its head, in the order of the dependents."""
        return [self.pair(head, word, word.relation) for head, word in self.related]

    def pair(self, head: WordInGrammar, dependent: WordInGrammar, relation: str = "") -> Pair:
        """Return the overlap of the maps of any two words."""
        h, d = self.mask_of(head), self.mask_of(dependent)
        both, either = int((h & d).sum()), int((h | d).sum())
        shares = (both / whole if whole else float("nan") for whole in (int(d.sum()), int(h.sum()), either))
        return Pair(head.text, dependent.text, relation, *shares)

    @property
    def related(self) -> list[tuple[WordInGrammar, WordInGrammar]]:
        """Head and dependent of each pair."""
        at = {word.first: word for word in self.words}
        return [(at[word.head], word) for word in self.words if word.head != word.first and word.head in at]

    @property
    def unrelated(self) -> list[tuple[WordInGrammar, WordInGrammar]]:
        """Every two words, in both orders, of which neither is the head of the other."""
        joined = {frozenset((head.first, word.first)) for head, word in self.related}
        return [(a, b) for a in self.words for b in self.words if a is not b and {a.first, b.first} not in joined]

    def mask_of(self, word: WordInGrammar) -> Bool[Tensor, "height width"]:
        """Return where a word's map is above the threshold, at the size of the picture."""
        return self._masks[word.first]

    @cached_property
    def _masks(self) -> dict[int, Bool[Tensor, "height width"]]:
        return {word.first: word.heat_map.resize(self.size).mask(self.threshold) for word in self.words}

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each pair. Raises ImportError if pandas is not installed."""
        names, pairs = ("relation", "head", "dependent", "iod", "ioh", "iou"), self.pairs()
        return data_frame({name: [getattr(own, name) for own in pairs] for name in names})

    def __repr__(self) -> str:
        out = [f"left out: {word!r}, {why}" for word, why in self.left_out.items()]
        return "\n".join([*as_text(self._table()), *out])

    def _repr_html_(self) -> str:
        return as_html(self._table(), f"Heads and dependents in {self.prompt.text!r}")

    def _table(self) -> list[list[str]]:
        rows = [
            [own.relation, own.head, own.dependent, *(f"{share:.2f}" for share in (own.iod, own.ioh, own.iou))]
            for own in self.pairs()
        ]
        return [["relation", "head", "dependent", "IoD", "IoH", "IoU"], *rows]


def grammar(
    run: Run,
    parse: Parse = "en_core_web_sm",
    image: int = 0,
    method: Method = "mean",
    threshold: float = THRESHOLD,
) -> Grammar:
    """Return the heat maps of one image of a run by the grammar of its prompt.

    >>> from types import SimpleNamespace as Word
    >>> import sdprobe
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=["attention-maps"], steps=4, seed=0, progress=False
    ... )
    >>> def parse(text):  # in place of spaCy
    ...     circle = Word(text="circle", idx=6, pos_="NOUN", dep_="ROOT", head=None)
    ...     circle.head = circle
    ...     red = Word(text="red", idx=2, pos_="ADJ", dep_="amod", head=circle)
    ...     return [Word(text="a", idx=0, pos_="DET", dep_="det", head=circle), red, circle]
    >>> found = sdprobe.attributions.grammar(run, parse)
    >>> found.by_part_of_speech()
    {'DET': HeatMap('DET', 16×16), 'ADJ': HeatMap('ADJ', 16×16), 'NOUN': HeatMap('NOUN', 16×16)}
    >>> [(own.relation, own.dependent, own.head, own.iod > 0.5) for own in found.pairs()]
    [('det', 'a', 'circle', ...), ('amod', 'red', 'circle', ...)]

    The parser's words are found in the prompt by the characters that they cover. A word that occurs twice has the map
    of its own occurrence; a part of a word with a hyphen that of its own tokens. Left out, with the reason, are words
    past the end of the context, and words that the parser ends within a token of the text encoder ("do" of "don't");
    and pairs with them.

    For a dependent of map D and a head of map H, resized to the picture, scaled from 0 to 1 and binarised:
    IoD = |D∩H| / |D|, IoH = |D∩H| / |H|, IoU = |D∩H| / |D∪H|. `overlaps` has their means over many runs.

    Args:
        run: a run with the hooks of the method; for ``"mean"``, `sdprobe.AttentionMaps` of every word.
        parse: the name of an installed model of spaCy (``pip install 'sdprobe[grammar]'``), an ``nlp`` object, or any
            function that takes a text and returns words with spaCy's attributes ``text``, ``idx``, ``pos_``, ``dep_``
            and ``head``.
        image: the image number.
        method: a method of attribution that tells occurrences apart, as in `AttentionMaps.heat_map`.
        threshold: above which a map counts, in [0, 1].

    Raises:
        ImportError: where spaCy is asked for and not installed.
        ValueError: for a model of spaCy that is not installed, with the line that installs it; for a prompt whose
            text is not known, or of several texts; and as the method.

    Source: Tang et al. 2023, "What the DAAM: Interpreting Stable Diffusion Using Cross Attention" (ACL), the analysis
    of heads and dependents. Differences from the authors' code (daam 0.2.0), where `dependency_relations` has the maps
    and `compute_ioa` of two masks is IoD or IoH: there a word that occurs twice has one map, of all its occurrences.
    The paper has maps of each word and none of a part of speech; those are ours.
    """
    prompt = run.prompt_of(image)
    if not prompt.spans:
        raise ValueError(
            f"grammar needs one text whose words have places; this prompt, {short_repr(prompt.text)}, is of embeddings "
            f"or of several texts"
        )
    own = attribution(method)
    words: list[WordInGrammar] = []
    left_out: dict[str, str] = {}
    for word in parse_words(parse, prompt.text):
        past = word.idx + len(word.text)
        if positions := prompt.under(word.idx, past):
            told = (word.text, word.pos_, word.dep_, word.idx, word.head.idx, positions)
            words.append(WordInGrammar(*told, _heat_map(own, run, prompt, word.text, positions, image)))
        elif past > _read_up_to(prompt.spans):
            left_out[word.text] = f"past the {len(prompt.ids)} tokens that are read"
        else:
            left_out[word.text] = "the text encoder has no tokens of its own for it"
    return Grammar(prompt, tuple(words), left_out, (run.settings.height, run.settings.width), threshold)


def _read_up_to(spans: Iterable[tuple[int, int]]) -> int:
    return max(last for _, last in spans)


def _heat_map(
    method: Attribution, run: Run, prompt: Prompt, word: str, positions: tuple[int, ...], image: int
) -> HeatMap:
    """Return the map of one occurrence of a word."""
    found = prompt.occurrences(word)
    if positions in found:
        which = {"occurrence": found.index(positions)} if len(found) > 1 else {}
        return method.heat_map(run, word, image, **which)
    # It is no word of the prompt's own, as "well" in "well, a well-lit room".
    maps = [method.heat_map(run, position, image) for position in positions]
    return HeatMap(torch.stack([own.values for own in maps]).mean(0), word, maps[0].picture)
