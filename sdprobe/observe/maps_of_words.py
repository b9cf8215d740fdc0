"""`MapsOfWords`: what can be asked of recorded attention to words: heat maps, by any method of attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from matplotlib.figure import Figure

from sdprobe import plot
from sdprobe.core.attribution import WordAsked, run_of
from sdprobe.core.attribution_registry import Method, attribution
from sdprobe.core.run import Role, Run
from sdprobe.observe.attention_shares import AttentionShares, shares_of
from sdprobe.observe.attention_sums import AttentionSums, Keep, Key, label_of
from sdprobe.observe.labelled_matrix import LabelledMatrix
from sdprobe.observe.maps_of_texts import MapsOfTexts
from sdprobe.observe.matrices_of_parts import matrices_of
from sdprobe.observe.prompt_readings import PromptReadings
from sdprobe.plot.heat_film import evenly
from sdprobe.plot.heatmap import HeatMap
from sdprobe.plot.segmentation import Segmentation


class MapsOfWords(MapsOfTexts):
    """What can be asked of `sdprobe.AttentionMaps` after a run.

    Attributes:
        run: the run.
        sums: what was recorded.
        readings: the prompts that it is of.
        roles: the roles of the rows that it is of.
    """

    run: Run
    sums: AttentionSums
    readings: PromptReadings
    roles: tuple[Role, ...]
    keep: tuple[Keep, ...]

    def heat_map(
        self,
        word: str | int,
        occurrence: int | None = None,
        image: int = 0,
        method: Method = "mean",
        *,
        role: Role | None = None,
        step: int | None = None,
        layer: str | None = None,
        head: int | None = None,
        encoder: str | None = None,
    ) -> HeatMap:
        """Return the heat map of a word: the attention of one image's positions to it.

        Args:
            word: a word or a phrase of the prompt, in any case; ``"<start>"``, ``"<end>"``, ``"<pad>"``; or a token
                position. The maps of several tokens are averaged.
            occurrence: which occurrence of the word, counted from 0; None averages over all.
            image: the image number.
            method: a method of attribution: its name, a pair of its name and its arguments, or an `Attribution`.
                ``"mean"`` is the mean probability over sites, heads and steps, at the largest grid recorded;
                ``"daam"`` is DAAM's map. `sdprobe.attributions.methods` lists all. What a method needs beside this
                record, its `hooks` record.
            role: ``"cond"`` or ``"uncond"``, if both were recorded.
            step: this step only (needs ``keep=("step",)``); likewise ``layer``, a module's name, and ``head``.
            encoder: only the word's tokens from this text encoder, if the denoiser gets the tokens of several: in
                Stable Diffusion 3, those of CLIP (``"text_encoder"``) or T5 (``"text_encoder_3"``); None averages over
                both.

        Raises:
            WordNotInPrompt: for a word that is not in the prompt.
            ValueError: for something that was not recorded; the message says how to record it.
        """
        parts = {"role": role, "step": step, "layer": layer, "head": head, "encoder": encoder, "occurrence": occurrence}
        return attribution(method).heat_map(run_of(self, self.run), word, image, **parts)

    def heat_maps(self, image: int = 0, method: Method = "mean", *, role: Role | None = None) -> dict[str, HeatMap]:
        """Return the heat map of every recorded word, in the order of the prompt."""
        words = self._words(image, self._recorded_role(role, image))
        return attribution(method).heat_maps(run_of(self, self.run), words, image, role=role)

    def segment(
        self,
        words: Sequence[str | int],
        background: bool | float = True,
        image: int = 0,
        method: Method = "mean",
        *,
        role: Role | None = None,
    ) -> Segmentation:
        """Return the picture divided among words: each place goes to the word whose normalized map is highest there.

        Args:
            words: words, phrases or token positions, as for `heat_map`. A position's part is called ``"circle at 3"``.
            background: whether places may belong to no word, and from which value on they belong to one: see
                `sdprobe.Segmentation`.
            image: the image number.
            method: a method of attribution, as for `heat_map`.
            role: as for `heat_map`.

        Raises as `heat_map`, and ValueError for a word that is given twice.
        """
        if isinstance(words, str) or len(set(words)) < len(words):
            raise ValueError(f"segment takes a list of different words, not {words!r}")
        maps = attribution(method).heat_maps(run_of(self, self.run), list(words), image, role=role)
        named = {word if isinstance(word, str) else f"{own.word} at {word}": own for word, own in maps.items()}
        return Segmentation(named, background)

    def matrix(self, from_: str, to: str, image: int = 0, **parts: Any) -> LabelledMatrix:
        """Return a matrix of `sdprobe.AttentionMatrices.matrix`, which this run must have recorded beside the maps."""
        return matrices_of(self.run).matrix(from_, to, image, **parts)

    def shares(self, image: int = 0, *, role: Role | None = None) -> AttentionShares:
        """Return where attention goes by the role of the token: to the start token, words, the end token and padding.

        There is a row for each layer and step that were kept apart: record with ``keep=("layer", "step")``.

        Args:
            image: the image number.
            role: as for `heat_map`.

        Raises ValueError if only some words were recorded.
        """
        if self.readings.words is not None:
            raise ValueError("shares need every token: record with words=None")
        joint = any(kind == "joint" for kind in self.run.coverage.sites.values())
        return shares_of(self.sums, self.readings, image, self._recorded_role(role, image), joint)

    def columns(self, asked: WordAsked) -> dict[Key, list[int]]:
        """Return in which sums a word was recorded, and in which columns; for methods of attribution.

        Raises as `heat_map`.
        """
        keys = self.sums.matching(self._recorded_role(asked.role, asked.image), asked.step, asked.layer, asked.head)
        readings = dict.fromkeys(key.reading for key in keys)
        found = self.readings.columns_for(readings, asked.image, asked.word, asked.occurrence, asked.encoder)
        return {key: found[key.reading] for key in keys if key.reading in found}

    def grid(
        self, by: Keep | Literal["frame"], words: Sequence[str] | None = None, image: int = 0, most: int = 8
    ) -> Figure:
        """Plot heat maps: words down; steps, layers, heads or frames across (at most ``most``, evenly spaced).

        Args:
            by: ``"step"``, ``"layer"`` or ``"head"``, if kept apart; ``"frame"`` for the frames of a video, above the
                maps of which its frames are shown, each map on one scale. By anything else a video's middle frame is
                shown.
            words: which words; None for all that were recorded.
            image: the image number.
            most: how many across.
        """
        if by == "frame":
            return self._frame_by_frame(list(words or self._words(image, self.roles[0])), image, most)
        if by not in get_args(Keep):
            raise ValueError(f"by is 'step', 'layer', 'head' or 'frame', not {by!r}")
        if by not in self.keep:
            raise ValueError(f"{by}s were not kept apart: record with AttentionMaps(keep=({by!r},))")
        self.sums.matching(self._recorded_role(None, image))
        across = self.sums.kept_apart()[by]
        count = min(most, len(across))
        chosen = [across[round(i * (len(across) - 1) / max(count - 1, 1))] for i in range(count)]
        shown = list(words or self._words(image, self.roles[0]))
        cells = [[_cell(self.heat_map(w, image=image, **{by: c})) for c in chosen] for w in shown]  # type: ignore[arg-type]
        return plot.sheet(cells, rows=shown, columns=[label_of(by, c) for c in chosen])

    def _frame_by_frame(self, words: Sequence[str], image: int, most: int) -> Figure:
        films = [self.heat_map(word, image=image).film() for word in words]
        chosen = evenly(len(films[0]), most)
        cells, rows = [own.cells(chosen) for own in films], list(words)
        if pictures := films[0].pictures:
            cells, rows = [[pictures[i] for i in chosen], *cells], ["video", *rows]
        return plot.sheet(cells, rows=rows, columns=[f"frame {i}" for i in chosen])

    def _recorded_role(self, role: Role | None, image: int) -> Role:
        role = role or self.roles[0]
        if role not in self.roles:
            raise ValueError(f"rows of role {role!r} were not recorded: use AttentionMaps(rows='both')")
        self.run.prompt_of(image, role)  # says how many images there are
        return role

    def _words(self, image: int, role: Role) -> list[str]:
        """The words recorded of an image, of all the prompts that it was shown. Raises ValueError if nothing was."""
        numbers = dict.fromkeys(key.reading for key in self.sums.matching(role))
        found = dict.fromkeys(word for number in numbers for word in self.readings.recorded(number, image))
        return list(found) or [*self.run.prompt_of(image, role).words][:0]  # which says where they are not known


def _cell(heat: HeatMap) -> plot.Cell:
    if not heat.is_video:
        return heat.cell()
    film = heat.film()
    return film.cells([(len(film) - 1) // 2])[0]
