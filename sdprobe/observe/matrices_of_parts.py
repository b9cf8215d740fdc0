"""`MatricesOfParts`: what can be asked of recorded attention matrices: those of two parts, and maps of words."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor, stack

from sdprobe.core.grid import Grid
from sdprobe.core.hook import Observer
from sdprobe.core.limits.row_subset import numbers_in_whole
from sdprobe.core.picture_of import picture_of
from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Role, Run
from sdprobe.core.short_repr import short_repr
from sdprobe.observe.labelled_matrix import EMPTY, LabelledMatrix, place_labels, token_labels
from sdprobe.observe.matrix_sums import Direction, MatrixKeep, MatrixKey, MatrixSums, direction_of, no_direction
from sdprobe.observe.prompt_readings import PromptReadings
from sdprobe.plot.heatmap import HeatMap


class MatricesOfParts(Observer):
    """What can be asked of `sdprobe.AttentionMatrices` after a run.

    Attributes:
        run: the run.
        sums: what was recorded.
        readings: the prompts that it is of.
        roles: the roles of the rows that it is of.
    """

    run: Run
    sums: MatrixSums
    readings: PromptReadings
    roles: tuple[Role, ...]
    keep: tuple[MatrixKeep, ...]
    directions: tuple[Direction, ...] | None

    def matrix(
        self,
        from_: str,
        to: str,
        image: int = 0,
        *,
        layer: str | None = None,
        step: int | None = None,
        role: Role | None = None,
        kind: str | None = None,
        grid: int | Grid | None = None,
    ) -> LabelledMatrix:
        """Return the mean attention from one part to another, over heads, sites and steps.

        M[i, j] = mean over sites s, heads h and steps t of softmax(Q_s K_sᵀ / √d)[h, i, j]

        Args:
            from_: the part that looks: ``"text"``, ``"image"``, or a text encoder's name, where the denoiser gets the
                tokens of several: in Stable Diffusion 3 ``"text_encoder"`` and ``"text_encoder_3"``.
            to: the part that is looked at.
            image: the image number.
            layer: this module only (needs ``keep=("layer",)``); likewise ``step``.
            role: ``"cond"`` or ``"uncond"``, if both were recorded.
            kind: of which kind of attention, ``"cross"``, ``"self"`` or ``"joint"``. None for joint attention, where
                there is any: blocks of Stable Diffusion 3.5 also have self-attention of the image alone.
            grid: of sites of which grid; None for the largest recorded.

        Raises ValueError for something that was not recorded; the message says how to record it.
        """
        keys = self._keys((from_, to), image, layer, step, role, kind, grid)
        (rows, looking), (columns, looked_at) = (self._part(part, keys, image) for part in (from_, to))
        return LabelledMatrix(self._mean(keys, image)[looking][:, looked_at], rows, columns, from_, to)

    def heat_map(
        self,
        word: str | int,
        direction: Direction = ("image", "text"),
        image: int = 0,
        occurrence: int | None = None,
        *,
        encoder: str | None = None,
        **parts: Any,
    ) -> HeatMap:
        """Return the map of a word in one direction: which places look at it, or at which places it looks.

        Args:
            word: a word or a phrase of the prompt; ``"<start>"``, ``"<end>"``, ``"<pad>"``; or a token position. The
                maps of several tokens are averaged.
            direction: ``("image", "text")`` for the attention of each place to the word, which is what
                `sdprobe.AttentionMaps` shows; ``("text", "image")`` for that of the word to each place.
            image: the image number.
            occurrence: which occurrence of the word, counted from 0; None averages over all.
            encoder: only the word's tokens from this text encoder.
            parts: ``layer``, ``step``, ``role``, ``kind`` and ``grid``, as for `matrix`.

        Raises:
            WordNotInPrompt: for a word that is not in the prompt.
            ValueError: as `matrix`, and for a direction that has not text on one side and the image on the other.
        """
        if set(direction_of(direction)) != {"image", "text"}:
            raise ValueError(f"a word's map is from the image to the text, or from the text to the image: {direction}")
        asked = {name: parts.pop(name, None) for name in ("layer", "step", "role", "kind", "grid")}
        if parts:
            raise TypeError(f"heat_map takes {', '.join(asked)}, not {', '.join(parts)}")
        keys = self._keys(direction, image, **asked)
        prompt = self._prompt(keys, image)
        positions = [p for p in prompt.positions(word, occurrence) if encoder is None or p in prompt.of(encoder)]
        if not positions:
            raise WordNotInPrompt(f"{encoder} does not read {word!r} in {prompt.text!r}")
        mean = self._mean(keys, image)
        values = mean[:, positions].mean(1) if direction[0] == "image" else mean[positions].mean(0)
        shown = word if isinstance(word, str) else prompt.spelt(word)
        return HeatMap(values.unflatten(0, keys[0].grid), shown, picture_of(self.run, image))

    def row_sums(self) -> Float[Tensor, " sums"]:
        """Return the smallest and largest sum of what a token or place looks at, in each recording: each is 1.

        Softmax runs over the whole key axis, so another value means a fault, or a transform of attention. Where the
        network is shown reference pictures (Flux Kontext) it is less: the rest goes to them.

        Raises ValueError if only some directions were recorded.
        """
        if self.directions is not None:
            raise ValueError("row sums need every direction: record with directions=None")
        totals: dict[MatrixKey, Tensor] = {}
        for key, total in self.sums.items():
            looking = key._replace(to="text")
            own = total.sum(-1) / self.sums.counts[key]
            totals[looking] = totals[looking] + own if looking in totals else own
        return stack([extreme for own in totals.values() for extreme in (own.min(), own.max())])

    def _mean(self, keys: Sequence[MatrixKey], image: int) -> Float[Tensor, "from to"]:
        total = self.sums[keys[0]][image].clone()
        for key in keys[1:]:
            total += self.sums[key][image]
        return total / sum(self.sums.counts[key] for key in keys)

    def _keys(
        self,
        asked: tuple[str, str],
        image: int,
        layer: str | None,
        step: int | None,
        role: Role | None,
        kind: str | None,
        grid: int | Grid | None,
    ) -> list[MatrixKey]:
        """The sums of what is asked for, all of one kind, grid, and prompt if a part is text."""
        role = role or self.roles[0]
        if role not in self.roles:
            raise ValueError(f"rows of role {role!r} were not recorded: use AttentionMatrices(rows='both')")
        self.run.prompt_of(image, role)  # says how many images there are
        for name, value in (("layer", layer), ("step", step)):
            if value is not None and name not in self.keep:
                raise ValueError(f"{name}s were not kept apart: record with AttentionMatrices(keep=({name!r},))")
        parts = tuple("image" if part == "image" else "text" for part in asked)
        there = [key for key in self.sums if key.role == role and (key.from_, key.to) == parts]
        if not there:
            raise ValueError(self._not_recorded(parts))
        kind = kind or ("joint" if any(key.kind == "joint" for key in there) else there[0].kind)
        wanted = (grid, grid) if isinstance(grid, int) else grid
        found = [
            key
            for key in there
            if key.kind == kind
            and layer in (None, key.layer)
            and step in (None, key.step)
            and wanted in (None, key.grid)
        ]
        if not found:
            kinds, layers, grids = (sorted({str(key[i]) for key in there}) for i in (1, 3, 4))
            raise ValueError(
                f"nothing was recorded of {kind}-attention at layer {layer}, step {step}, grid {grid}; recorded: "
                f"{', '.join(kinds)}; the layers {short_repr(layers)}; the grids {', '.join(grids)}"
            )
        largest = max((key.grid for key in found), key=prod)
        found = [key for key in found if key.grid == largest]
        if "text" in parts:
            self._prompt(found, image)
        return found

    def _prompt(self, keys: Sequence[MatrixKey], image: int) -> Prompt:
        prompts = dict.fromkeys(self.readings.prompts[key.reading][image] for key in keys)
        if len(prompts) > 1:
            raise ValueError(
                f"image {image} was shown {len(prompts)} prompts in this run, whose tokens are not the same: ask for a "
                f"step, with AttentionMatrices(keep=('step',))"
            )
        return next(iter(prompts))

    def _part(self, part: str, keys: Sequence[MatrixKey], image: int) -> tuple[tuple[str, ...], slice | list[int]]:
        """The labels of a part, and its positions among those recorded."""
        if part == "image":
            return place_labels(keys[0].grid), slice(None)
        prompt = self._prompt(keys, image)
        total, labels = self.sums[keys[0]], token_labels(prompt)
        count = total.shape[1] if keys[0].from_ == "text" else total.shape[2]
        chosen = list(range(count) if part == "text" else prompt.of(part))
        return tuple(labels[i] if i < len(labels) else EMPTY for i in chosen), chosen

    def _not_recorded(self, parts: tuple[str, ...]) -> str:
        if not self.sums:
            return "nothing was recorded: no attention site that was asked for has been called"
        if self.directions is not None and parts not in self.directions:
            return f"{'→'.join(parts)} was not recorded: the directions were {short_repr(self.directions)}"
        return no_direction(parts)


def matrices_of(run: Run) -> MatricesOfParts:
    """Return what the one `sdprobe.AttentionMatrices` of a run recorded, of all its images.

    Raises ValueError where the run has no such hook, saying how to give it one, and where it has several.
    """
    try:
        found: MatricesOfParts = run[MatricesOfParts]
    except KeyError as error:
        raise ValueError(
            "matrices are recorded by a hook of their own, of which a run has one: sample(..., hooks=[maps, "
            f"sdprobe.AttentionMatrices()]); {error.args[0]}"
        ) from error
    if numbers_in_whole(found.run) != numbers_in_whole(run):
        raise ValueError("the matrices and the maps are of different images: limit both hooks, or neither")
    return found
