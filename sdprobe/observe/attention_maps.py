"""`AttentionMaps`: heat maps of words, from cross- and joint attention.

The memory used does not grow with the number of steps: running sums, per grid, over sites, heads and steps. More is
kept only on request, and refused before the first step where it would be more than the budget. Maps are resized once,
at the end: resizing is linear, so the result is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.grid import Grid
from sdprobe.core.hook import patterns
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.possible_grids import as_grids, possible_grids
from sdprobe.core.rows import read_roles
from sdprobe.core.run import Role, Run
from sdprobe.core.site import Site
from sdprobe.core.torch_names import device_name, dtype_of
from sdprobe.core.written_values import mapping, pair
from sdprobe.observe.attention_sums import AttentionSums, Keep
from sdprobe.observe.expected_sums import ExpectedSums, expected_sums
from sdprobe.observe.maps_of_words import MapsOfWords
from sdprobe.observe.memory_budget import MemoryBudget
from sdprobe.observe.prompt_readings import PromptReadings
from sdprobe.observe.recorded_sites import checked_budget, checked_rows, roles_of_rows
from sdprobe.observe.token_labels import Labels, TokenLabels

# Sums per layer and head, needed for DAAM's map, are kept without request up to this size.
UNASKED_BYTES = 4_000_000
# What is kept is a mean of probabilities, times a count: half precision holds it to about a thousandth.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class AttentionMaps(MapsOfWords):
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
        labels: names of tokens, beside the prompt's own words, for `heat_map` and for ``words``: a label for each
            position, None for one without; or a mapping of labels to a position or several. Those of a pipeline that is
            given ``prompt_embeds`` have no other names. They are the same for all images, and of the rows of the
            negative prompt with ``rows="uncond"``.
        keep: what to record separately instead of summing over it: ``"step"``, ``"layer"``, ``"head"``.
        modules: fnmatch patterns on module names, e.g. ``("up_blocks.*",)``; None for all.
        places: parts of the U-Net, of ``"down"``, ``"mid"``, ``"up"``; None for all.
        grids: only sites of these grids, ``(h, w)``, a number for a square one, ``(t, h, w)`` in a video; None for all.
        strict: raise an error if a site cannot be seen; False only lists it in ``run.coverage``.
        budget: how many bytes may be held on a device. None for a quarter of what is free: of its own memory on a CUDA
            device, of the machine's elsewhere.
        dtype: in which the sums are kept: ``torch.float32``, ``torch.float16``, ``torch.bfloat16``, or a name of these.
        device: where the sums are kept, such as ``"cpu"``; None for the model's.

    What would be more than the budget is refused before the first step. A site whose grid does not follow from its name
    counts as one of the largest grid. What only the run can show, such as another prompt that a callback gives, is
    refused when it would be more on the model's device:

    >>> maps = sdprobe.AttentionMaps(keep=("step", "layer", "head"), budget=10_000_000)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=30, seed=0, progress=False)
    Traceback (most recent call last):
    ValueError: AttentionMaps(keep=('step', 'layer', 'head'), budget=10000000) would hold 15.0 MB on cpu, and its budget
    is 10.0 MB:
      30 steps × 3 layers × 1 image × 4 heads × 256 positions (16×16) × 32 tokens × 4 bytes = 11.8 MB
      30 steps × 3 layers × 1 image × 4 heads × 64 positions (8×8) × 32 tokens × 4 bytes = 2.9 MB
      30 steps × 1 layer × 1 image × 4 heads × 16 positions (4×4) × 32 tokens × 4 bytes = 245.8 kB
    Hold less, with words=[...], less than keep=('step', 'layer', 'head'), grids=[...], dtype=torch.float16, or ...

    Sums are added up in float32 on the model's device. They get ``dtype`` and go to ``device`` when they are complete:
    at the end of each step where steps are kept apart, else at the end of the run. So half precision and another device
    take less memory during the run only with ``keep="step"``. Each number is rounded once. On the embedded model, over
    50 steps, a map changes by at most 0.04 % of its maximum in float16 and 0.4 % in bfloat16; but what is less than
    3e-8 becomes 0 in float16.

    >>> maps = sdprobe.AttentionMaps(words=["circle"], keep=("step", "layer", "head"), dtype="float16", device="cpu")
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=30, seed=0, progress=False)
    >>> run[maps].held_bytes, run[maps].heat_map("circle", step=29)
    (234240, HeatMap('circle', 16×16))
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        words: Sequence[str | int] | None = None,
        *,
        rows: Role | Literal["both"] = "cond",
        labels: Labels | None = None,
        keep: Keep | Sequence[Keep] = (),
        modules: Sequence[str] | None = None,
        places: Collection[str] | None = None,
        grids: Collection[int | Grid] | None = None,
        strict: bool = True,
        budget: int | float | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: str | torch.device | None = None,
    ) -> None:
        kept: tuple[Keep, ...] = (keep,) if isinstance(keep, str) else tuple(keep)
        if unknown := [name for name in kept if name not in get_args(Keep)]:
            raise ValueError(f"cannot keep {unknown}; what can be kept apart: {', '.join(get_args(Keep))}")
        rows, budget = checked_rows(rows), checked_budget(budget)
        if labels is not None and rows == "both":
            raise ValueError("labels name the tokens of one side: record rows='cond' and rows='uncond' each by itself")
        self._labels = None if labels is None else TokenLabels.of(labels)
        self.labels = labels if labels is None or isinstance(labels, Mapping) else list(labels)
        self.words = (words,) if isinstance(words, str) else words
        self.rows, self.keep, self.places, self.strict = rows, kept, places, strict
        if modules is None and places is not None:
            modules = [f"{place}*" for place in places]
        self.modules = patterns(modules)
        self.grids = as_grids(grids)
        self.budget, self.dtype = budget, dtype_of(dtype, DTYPES)
        self.device = None if device is None else device_name(device)

    def start(self, run: Run) -> None:
        self.run = run
        self.roles: tuple[Role, ...] = roles_of_rows(self.rows, run)
        grids = possible_grids(run, self.grids)
        self.readings = PromptReadings.of_run(run, self.roles, self.words, self._labels)
        budget = MemoryBudget(repr(self), self.budget, self._ways_to_hold_less(grids, run.model.device))
        unasked = UNASKED_BYTES if self.budget is None else min(UNASKED_BYTES, self.budget)
        self.sums = AttentionSums(self.keep, unasked, budget, self.dtype, self.device)

    def expect_sites(self, sites: Sequence[Site]) -> None:
        model = self.run.model.device
        self.expected(sites).refuse_over(self.sums.budget, model, model if self.device is None else self.device)

    def expected(self, sites: Sequence[Site]) -> ExpectedSums:
        """Return the sums that calls at these sites will make, each with its size."""
        largest = max(possible_grids(self.run, self.grids), key=prod)
        wanted = [(site, grid) for site in sites if self._wants(site, grid := site.grid or largest)]
        images = range(self.run.settings.images)
        by_role = {role: [self.run.prompt_of(image, role) for image in images] for role in self.roles}
        readings = {role: self.readings.number_of(prompts) for role, prompts in by_role.items()}
        shown = {role: (number, self.readings.columns[number]) for role, number in readings.items()}
        every = expected_sums(wanted, shown, len(images), {*self.keep, "layer", "head"}, self.dtype)
        fits = every.most_bytes <= self.sums.unasked_bytes
        return every if fits else expected_sums(wanted, shown, len(images), self.keep, self.dtype)

    def attention(self, attn: Attention, site: Site) -> None:
        if site.grid is None or not self._wants(site, site.grid):
            return
        self.latent_size = (site.step.latents.shape[-2], site.step.latents.shape[-1])
        for shown in self.readings.shown(site.step.rows, self.roles):
            if shown.columns != []:  # a prompt that a callback gives may hold none of the words
                self.sums.record(attn, site, site.grid, shown)

    def finish(self, run: Run) -> None:
        self.sums.finish()

    def records(self) -> HookRecords:
        own = {"readings": self.readings.to_plain(), "roles": self.roles, "latent_size": vars(self).get("latent_size")}
        return replace(found := self.sums.records(), values={**found.values, **own})

    def restore(self, records: HookRecords, run: Run) -> None:
        values, self.run = records.values, run
        self.readings = PromptReadings.from_plain(mapping(values["readings"]), run.settings.images)
        self.sums = AttentionSums.restored(records, self.readings)
        self.roles = read_roles(values["roles"])
        if values["latent_size"] is not None:
            self.latent_size = pair(values["latent_size"], 2_048)

    @property
    def held_bytes(self) -> int:
        """The size of the recorded sums; independent of the number of steps, unless steps are recorded separately."""
        return self.sums.held_bytes

    def row_sums(self) -> Float[Tensor, " sums"]:
        """Return the smallest and largest sum of mean probabilities over all tokens, for each recording: each is 1.

        In joint attention this is the part that goes to the text, and less than 1: the rest goes to the image. Softmax
        runs over the whole key axis, so another value means a fault, or a transform of attention.
        """
        if self.words is not None:
            raise ValueError("row sums need every token: record with words=None")
        return self.sums.row_sums()

    def _ways_to_hold_less(self, grids: Sequence[Grid], model: torch.device) -> list[str]:
        ways = {
            "words=[...]": self.words is None,
            f"less than keep={self.keep}": bool(self.keep),
            "grids=[...]": len(grids) > 1,
            "dtype=torch.float16": "step" in self.keep and self.dtype == torch.float32,
            'device="cpu"': "step" in self.keep and self.device is None and model.type != "cpu",
        }
        return [way for way, helps in ways.items() if helps]

    def _wants(self, site: Site, grid: Grid) -> bool:
        return (self.places is None or site.place in self.places) and (self.grids is None or grid in self.grids)
