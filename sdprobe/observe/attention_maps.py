"""`AttentionMaps`: heat maps of words, from cross- and joint attention.

The memory used does not grow with the number of steps: running sums in fp32, per grid, over sites, heads and steps.
More is kept only on request. Maps are resized once, at the end: resizing is linear, so the result is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe import plot
from sdprobe.core.attention import Attention
from sdprobe.core.hook import Observer, patterns
from sdprobe.core.run import Role, Run, Site
from sdprobe.core.short_repr import short_repr
from sdprobe.observe.daam import daam_map
from sdprobe.observe.prompt_readings import PromptReadings
from sdprobe.plot.heatmap import HeatMap, resize

Keep = Literal["step", "layer", "head"]
Method = Literal["mean", "daam"]

# Sums per layer and head, needed for DAAM's map, are kept without request up to this size.
UNASKED_BYTES = 4_000_000


class Key(NamedTuple):
    """Identifies a sum; None where it runs over all steps, or over all layers of a grid; and the prompts, by number."""

    role: Role
    step: int | None
    layer: str | None
    grid: tuple[int, int]
    reading: int


class AttentionMaps(Observer):
    """Record the attention of the image to the text, and return the heat map of any word of the prompt.

    It records cross-attention; in joint attention (Stable Diffusion 3, Flux), the part of the image's attention that
    goes to the text.

    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle left of a blue square", hooks=[maps], steps=4, seed=0, progress=False
    ... )
    >>> run[maps].heat_map("circle")
    HeatMap('circle', 16×16)
    >>> list(run[maps].heat_maps())
    ['a', 'red', 'circle', 'left', 'of', 'blue', 'square']
    >>> run[maps].heat_map("hexagon")
    Traceback (most recent call last):
    sdprobe.core.prompt.WordNotInPrompt: 'hexagon' is not in the prompt 'a red circle left of a blue square'; ...

    Args:
        words: only the tokens of these words; None for every token, including padding.
        rows: ``"cond"`` (the prompt), ``"uncond"`` (the negative prompt) or ``"both"``.
        keep: what to record separately instead of summing over it: ``"step"``, ``"layer"``, ``"head"``.
        modules: fnmatch patterns on module names, e.g. ``("up_blocks.*",)``; None for all.
        places: parts of the U-Net, of ``"down"``, ``"mid"``, ``"up"``; None for all.
        grids: only sites of these grids, ``(h, w)`` or a number for a square one; None for all.
        strict: raise an error if a site cannot be seen; False only lists it in ``run.coverage``.
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        words: Sequence[str | int] | None = None,
        *,
        rows: Role | Literal["both"] = "cond",
        keep: Keep | Sequence[Keep] = (),
        modules: Sequence[str] | None = None,
        places: Collection[str] | None = None,
        grids: Collection[int | tuple[int, int]] | None = None,
        strict: bool = True,
    ) -> None:
        kept: tuple[Keep, ...] = (keep,) if isinstance(keep, str) else tuple(keep)
        if unknown := [name for name in kept if name not in get_args(Keep)]:
            raise ValueError(f"cannot keep {unknown}; what can be kept apart: {', '.join(get_args(Keep))}")
        if rows not in ("cond", "uncond", "both"):
            raise ValueError(f"rows is 'cond', 'uncond' or 'both', not {rows!r}")
        self.words = (words,) if isinstance(words, str) else words
        self.rows, self.keep, self.places, self.strict = rows, kept, places, strict
        if modules is None and places is not None:
            modules = [f"{place}*" for place in places]
        self.modules = patterns(modules)
        self.grids = None if grids is None else [(g, g) if isinstance(g, int) else tuple(g) for g in grids]

    def start(self, run: Run) -> None:
        self.run = run
        self._refuse(run)
        self.roles: tuple[Role, ...] = ("cond", "uncond") if self.rows == "both" else (self.rows,)
        self.readings = PromptReadings.of_run(run, self.roles, self.words)
        self.apart = set(self.keep) | {"layer", "head"}
        self.sums: dict[Key, Float[Tensor, "images heads positions tokens"]] = {}
        self.counts: dict[Key, int] = {}

    def attention(self, attn: Attention, site: Site) -> None:
        if site.grid is None or (self.places is not None and site.place not in self.places):
            return
        if self.grids is not None and site.grid not in self.grids:
            return
        h, w = site.step.latents.shape[-2:]
        self.latent_size = (h, w)
        for role in self.roles:
            if all(row.role != role for row in site.step.rows):
                continue  # a pipeline may call its denoiser for each role separately
            step = site.step.index if "step" in self.apart else None
            layer = site.name if "layer" in self.apart else None
            reading = self.readings.of_rows(site.step.rows, role)
            columns = self.readings.columns[reading]
            if columns != []:  # a prompt that a callback gives may hold none of the words
                seen = attn.probs(rows=role, queries=site.image, tokens=site.tokens(columns))
                self._add(Key(role, step, layer, site.grid, reading), seen)

    def _add(self, key: Key, probs: Float[Tensor, "images heads positions tokens"]) -> None:
        if "head" not in self.apart:
            probs = probs.mean(1, keepdim=True)
        self.counts[key] = self.counts.get(key, 0) + 1
        if key in self.sums:
            self.sums[key].add_(probs)
            return
        self.sums[key] = probs.to(torch.float32, copy=True)
        unasked = self.apart - set(self.keep)
        if unasked and self.held_bytes > UNASKED_BYTES:
            self._sum_over(unasked)

    def _sum_over(self, names: set[str]) -> None:
        held, counts = self.sums, self.counts
        self.apart -= names
        self.sums, self.counts = {}, {}
        for key, total in held.items():
            new = key._replace(layer=key.layer if "layer" in self.apart else None)
            total = total if "head" in self.apart else total.mean(1, keepdim=True)
            self.sums[new] = self.sums[new] + total if new in self.sums else total
            self.counts[new] = self.counts.get(new, 0) + counts[key]

    @property
    def held_bytes(self) -> int:
        """The size of the recorded sums; independent of the number of steps, unless steps are recorded separately."""
        return sum(total.numel() * total.element_size() for total in self.sums.values())

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
            method: ``"mean"``: the mean probability over sites, heads and steps, at the largest grid recorded.
                ``"daam"``: exactly DAAM's map (Tang et al., ACL 2023), at the size of the latents: the sum over steps
                per layer and head, resized bicubically, negative values set to 0; then the mean of these. It leaves out
                the middle block and sites at an eighth of the latents' size. Its data are recorded without request up
                to 4 MB, as for the embedded model; for a larger model, ask for them: ``keep=("layer", "head")``.
            role: ``"cond"`` or ``"uncond"``, if both were recorded.
            step: this step only (needs ``keep=("step",)``); likewise ``layer``, a module's name, and ``head``.
            encoder: only the word's tokens from this text encoder, if the denoiser gets the tokens of several: in
                Stable Diffusion 3, those of CLIP (``"text_encoder"``) or T5 (``"text_encoder_3"``); None averages over
                both.

        Raises:
            WordNotInPrompt: for a word that is not in the prompt.
            ValueError: for something that was not recorded; the message says how to record it.
        """
        role = role or self.roles[0]
        if role not in self.roles:
            raise ValueError(f"rows of role {role!r} were not recorded: use AttentionMaps(rows='both')")
        self.run.prompt_of(image, role)  # says how many images there are
        keys = self._matching(role, step, layer, head)
        columns = self.readings.columns_for(dict.fromkeys(k.reading for k in keys), image, word, occurrence, encoder)
        held = {key: columns[key.reading] for key in keys if key.reading in columns}
        if method == "daam":
            values = self._daam(held, image, head)
        elif method == "mean":
            values = self._mean(held, image, head)
        else:
            raise ValueError(f"method is 'mean' or 'daam', not {method!r}")
        picture = self.run.images[image] if self.run.images else None
        if isinstance(word, int):
            word = self.readings.prompts[next(iter(held)).reading][image].spelt(word)
        return HeatMap(values, word, picture)

    def heat_maps(self, image: int = 0, method: Method = "mean", *, role: Role | None = None) -> dict[str, HeatMap]:
        """Return the heat map of every recorded word, in the order of the prompt."""
        recorded = self._words(image, role or self.roles[0])
        return {word: self.heat_map(word, None, image, method, role=role) for word in recorded}

    def grid(self, by: Keep, words: Sequence[str] | None = None, image: int = 0, most: int = 8) -> Figure:
        """Plot heat maps: words down; steps, layers or heads across (at most ``most``, evenly spaced)."""
        across: dict[str, list[int | str]] = {
            "step": sorted({key.step for key in self.sums if key.step is not None}),
            "layer": list(dict.fromkeys(key.layer for key in self.sums if key.layer is not None)),
            "head": list(range(min(total.shape[1] for total in self.sums.values()))),
        }
        if by not in across:
            raise ValueError(f"by is 'step', 'layer' or 'head', not {by!r}")
        if by not in self.keep:
            raise ValueError(f"{by}s were not kept apart: record with AttentionMaps(keep=({by!r},))")
        every, count = across[by], min(most, len(across[by]))
        chosen = [every[round(i * (len(every) - 1) / max(count - 1, 1))] for i in range(count)]
        shown = list(words or self._words(image, self.roles[0]))
        cells = [[self.heat_map(w, image=image, **{by: c}).cell() for c in chosen] for w in shown]  # type: ignore[arg-type]
        return plot.sheet(cells, rows=shown, columns=[_label(by, c) for c in chosen])

    def row_sums(self) -> Float[Tensor, " sums"]:
        """Return the smallest and largest sum of mean probabilities over all tokens, for each recording: each is 1.

        In joint attention this is the part that goes to the text, and less than 1: the rest goes to the image. Softmax
        runs over the whole key axis, so another value means a fault, or a transform of attention.
        """
        if self.words is not None:
            raise ValueError("row sums need every token: record with words=None")
        means = [total.sum(-1) / self.counts[key] for key, total in self.sums.items()]
        return torch.stack([extreme for mean in means for extreme in (mean.min(), mean.max())])

    def _refuse(self, run: Run) -> None:
        if self.rows != "cond" and "uncond" not in run.roles:
            raise ValueError(f"rows={self.rows!r}, but there are no unconditional rows at this guidance scale")
        grids = list(run.model.grids(run.settings).values())
        if self.grids is not None and not set(self.grids) & set(grids):
            raise ValueError(f"no site can have a grid of {self.grids}; at this size they are among {grids}")

    def _words(self, image: int, role: Role) -> list[str]:
        """The words recorded of an image, of all the prompts that it was shown."""
        numbers = dict.fromkeys(key.reading for key in self.sums if key.role == role)
        found = dict.fromkeys(word for number in numbers for word in self.readings.recorded(number, image))
        return list(found) or [*self.run.prompt_of(image, role).words][:0]  # which says where they are not known

    def _matching(self, role: Role, step: int | None, layer: str | None, head: int | None) -> list[Key]:
        for name, value in (("step", step), ("layer", layer), ("head", head)):
            if value is not None and name not in self.keep:
                raise ValueError(f"{name}s were not kept apart: record with AttentionMaps(keep=({name!r},))")
        keys = [k for k in self.sums if k.role == role and step in (None, k.step) and layer in (None, k.layer)]
        keys = [key for key in keys if head is None or 0 <= head < self.sums[key].shape[1]]
        if not keys:
            layers = list(dict.fromkeys(key.layer for key in self.sums if key.layer is not None))
            heads = max((total.shape[1] for total in self.sums.values()), default=0)
            steps = sorted({key.step for key in self.sums if key.step is not None})
            raise ValueError(
                f"nothing was recorded at step {step}, layer {layer}, head {head}; recorded: {len(steps)} steps "
                f"{short_repr(steps)}, {heads} heads, the layers {short_repr(layers)}"
            )
        return keys

    def _word(self, key: Key, image: int, columns: list[int], head: int | None) -> Float[Tensor, "heads h w"]:
        heads = slice(None) if head is None else slice(head, head + 1)
        word: Tensor = self.sums[key][image, heads][..., columns].mean(-1).unflatten(-1, key.grid)
        return word

    def _mean(self, held: Mapping[Key, list[int]], image: int, head: int | None) -> Float[Tensor, "h w"]:
        size = max((key.grid for key in held), key=lambda grid: grid[0] * grid[1])
        by_grid: dict[tuple[int, int], Tensor] = {}
        for key, columns in held.items():
            own = self._word(key, image, columns, head).mean(0)
            by_grid[key.grid] = by_grid[key.grid] + own if key.grid in by_grid else own
        total = torch.stack([resize(own, size, "bilinear") for own in by_grid.values()]).sum(0)
        return total / sum(self.counts[key] for key in held)

    def _daam(self, held: Mapping[Key, list[int]], image: int, head: int | None) -> Float[Tensor, "h w"]:
        if not {"layer", "head"} <= self.apart:
            raise ValueError(
                "DAAM's map needs layers and heads apart: record with AttentionMaps(keep=('layer', 'head'))"
            )
        if len({len(columns) for columns in held.values()}) > 1:
            raise ValueError("the word is of more tokens in one of this run's prompts than in another: ask for a step")
        sums: dict[str, Tensor] = {}
        for key, columns in held.items():
            own = self.sums[key][image, slice(None) if head is None else slice(head, head + 1)][..., columns]
            own = own.unflatten(1, key.grid).movedim(-1, 1)  # [heads, tokens, h, w]
            sums[str(key.layer)] = sums[str(key.layer)] + own if str(key.layer) in sums else own
        return daam_map(sums, self.latent_size)


def _label(by: str, value: int | str) -> str:
    if isinstance(value, int):
        return f"{by} {value}"
    place, *rest = value.split(".")
    return f"{place.split('_')[0]} {'.'.join([part for part in rest if part.isdigit()][:2])}"
