"""`AttentionQueries`: the queries of cross-attention, with which a picture can be asked for any text after its run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.grid import Grid, read_grid, said_grid
from sdprobe.core.hook import patterns
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.plain_values import Tensors
from sdprobe.core.possible_grids import as_grids
from sdprobe.core.rows import Role, as_slice
from sdprobe.core.run import Run
from sdprobe.core.short_repr import said, short_repr
from sdprobe.core.site import Site
from sdprobe.core.torch_names import FLOATING, device_name, dtype_of
from sdprobe.core.written_values import MOST_ENTRIES, count, line, listed, mapping, number, whole
from sdprobe.observe.attention_of_queries import SiteQueries
from sdprobe.observe.expected_queries import QuerySize, expected_queries
from sdprobe.observe.maps_of_texts import MapsOfTexts
from sdprobe.observe.memory_budget import MemoryBudget, written
from sdprobe.observe.recorded_sites import checked_budget


class QueryKey(NamedTuple):
    """Identifies the queries of one call: the step, the module, and which of its calls in this step, from 0."""

    step: int
    layer: str
    call: int


class AttentionQueries(MapsOfTexts):
    """Record the queries of cross-attention, and return after the run the heat map of any text.

    A query is what a place of the picture compares with the keys of the text's tokens. The keys of another text can be
    computed at any time, so that the picture can be asked for words that its prompt does not have.

    >>> import sdprobe
    >>> queries = sdprobe.AttentionQueries()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[queries], steps=2, seed=0, progress=False)
    >>> run[queries].heat_map_of("a round shape")
    HeatMap('a round shape', 16×16)
    >>> run[queries].held_bytes
    307200

    This takes memory for every step. A part of the steps is often enough: ``sdprobe.every(5)(AttentionQueries())``
    records every fifth.

    Args:
        rows: the role of the rows that are recorded: ``"cond"`` (the prompt), ``"uncond"`` (the negative prompt).
        modules: fnmatch patterns on module names, e.g. ``("up_blocks.*",)``; None for all.
        grids: only sites of these grids, ``(h, w)`` or a number for a square one; None for all.
        strict: raise an error if a site cannot be seen; False only lists it in ``run.coverage``.
        budget: how many bytes may be held. None for a quarter of what is free where they are held: of its own memory on
            a CUDA device, of the machine's elsewhere.
        dtype: in which queries are kept, such as ``torch.float16``, or its name; None for the model's.
        device: where they are kept, such as ``"cpu"``; None for the model's.

    Attributes:
        queries: (in a run) by `QueryKey`, ``[images, heads, positions, width]`` each. In a saved run each is read when
            it is asked for.
        grids_of: (in a run) the grid ``(h, w)`` of each module.
        scales: (in a run) the factor of each module's scores.
        held_bytes: (in a run) the size of all queries.

    Raises:
        ValueError: in a run of a model of joint attention; for rows that the run does not have; before the first step
            where more would be held than the budget.
    """

    kinds = ("cross",)

    def __init__(
        self,
        rows: Role = "cond",
        *,
        modules: Sequence[str] | None = None,
        grids: Collection[int | Grid] | None = None,
        strict: bool = True,
        budget: int | float | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.rows, self.modules, self.strict = rows, patterns(modules), strict
        self.grids = as_grids(grids)
        self.budget, self.dtype = checked_budget(budget), None if dtype is None else dtype_of(dtype)
        self.device = None if device is None else device_name(device)

    def start(self, run: Run) -> None:
        refuse_joint(run.model)
        if self.rows not in run.roles:
            raise ValueError(f"rows={self.rows!r}, but the roles of this run's rows are {', '.join(run.roles)}")
        self.run = run
        self.queries: dict[QueryKey, Shaped[Tensor, "images heads positions width"]] = {}
        self.grids_of: dict[str, Grid] = {}
        self.scales: dict[str, float] = {}
        self.held_bytes = 0
        self._arriving: dict[QueryKey, CpuCopy] = {}
        ways = {
            "sdprobe.every(5)(AttentionQueries())": True,
            "modules=[...]": self.modules is None,
            "grids=[...]": self.grids is None,
            "dtype=torch.float16": self.dtype is None or self.dtype.itemsize > 2,
            'device="cpu"': self.device is None and run.model.device.type != "cpu",
        }
        budget = MemoryBudget(repr(self), self.budget, [way for way, helps in ways.items() if helps])
        self._refuse_over_budget = budget.refuse  # how much is free is no record

    def expect_sites(self, sites: Sequence[Site]) -> None:
        model = self.run.model
        largest = max(model.grids(self.run.settings).values(), key=prod)
        wanted = [site for site in sites if self._wants(site.grid or largest)]
        if not wanted:
            grids = {f"{said_grid(site.grid)}" for site in sites if site.grid}
            raise ValueError(f"no site has a grid of {self.grids}; those of this run are {', '.join(sorted(grids))}")
        itemsize = (self.dtype or model.denoiser.dtype).itemsize
        expected = expected_queries(wanted, model.modules, self.run.settings.images, largest, itemsize)
        device = torch.empty(0, device=self.device or model.device).device  # "cuda" becomes "cuda:0"
        self._refuse_over_budget(device, expected.held_bytes, expected.arithmetic)

    def attention(self, attn: Attention, site: Site) -> None:
        rows = [i for i, row in enumerate(attn.rows) if row.role == self.rows]
        if site.grid is None or not self._wants(site.grid) or not rows:
            return  # a pipeline may call its denoiser for each role separately
        rows.sort(key=lambda i: attn.rows[i].image)
        if [attn.rows[i].image for i in rows] != list(range(self.run.settings.images)):
            raise ValueError(f"{site.name} ran for some of the images only, and their queries are recorded together")
        own = attn.query[as_slice(rows)]
        size = QuerySize(len(own), own.shape[1], site.grid, own.shape[-1])
        new = size.numbers * (self.dtype or own.dtype).itemsize
        device = torch.empty(0, device=self.device or own.device).device
        self._refuse_over_budget(
            device,
            self.held_bytes + new,
            lambda: f"  {written(self.held_bytes)} until now, and at {site.name} {size} = {written(new)}",
        )
        self.held_bytes += new
        self.grids_of[site.name], self.scales[site.name] = site.grid, float(attn.scale)
        self._keep(site, own, device)

    def _keep(self, site: Site, own: Tensor, device: torch.device) -> None:
        """Keep a copy. On its way from a GPU to the CPU it is waited for when the next step has begun."""
        step = site.step.index
        if any(key.step != step for key in self._arriving):
            self._arrive()
        call = 0
        while (key := QueryKey(step, site.name, call)) in self.queries or key in self._arriving:
            call += 1
        if device.type == "cpu":
            self._arriving[key] = CpuCopy(own, self.dtype)
        else:
            self.queries[key] = own.detach().to(device, self.dtype or own.dtype, copy=True)

    def _arrive(self) -> None:
        self.queries |= {key: copied.value for key, copied in self._arriving.items()}
        self._arriving.clear()

    def finish(self, run: Run) -> None:
        if "_arriving" in vars(self):  # the run may have been refused at its start
            self._arrive()

    def sites(self, image: int = 0, step: int | None = None, layer: str | None = None) -> Iterator[SiteQueries]:
        """Give the queries of an image module by module, those of all steps together; for methods of attribution.

        Args:
            image: the image number.
            step: this step only.
            layer: this module only.

        Raises ValueError where nothing was recorded of these.
        """
        self.run.prompt_of(image)  # says how many images there are
        keys = [key for key in self.queries if step in (None, key.step) and layer in (None, key.layer)]
        if not keys:
            steps = sorted({key.step for key in self.queries})
            raise ValueError(
                f"nothing was recorded at step {step}, layer {layer}; recorded: the steps {short_repr(steps)}, the "
                f"layers {short_repr(list(self.grids_of))}"
            )
        for name in dict.fromkeys(key.layer for key in keys):
            every = [self.queries[key][image] for key in keys if key.layer == name]
            if len({(own.shape, own.dtype) for own in every}) > 1:
                raise ValueError(f"the queries of {name} have not the same size and dtype in all steps")
            yield SiteQueries(name, torch.stack(every), self.grids_of[name], self.scales[name])

    def records(self) -> HookRecords:
        values = {
            "queries": [list(key) for key in self.queries],
            "grids": {name: list(grid) for name, grid in self.grids_of.items()},
            "scales": self.scales,
            "bytes": self.held_bytes,
        }
        return HookRecords(values, {str(i): own for i, own in enumerate(self.queries.values())})

    def restore(self, records: HookRecords, run: Run) -> None:
        values, self.run = records.values, run
        self.grids_of = {line(name): read_grid(grid) for name, grid in mapping(values["grids"]).items()}
        self.scales = {line(name): number(scale) for name, scale in mapping(values["scales"]).items()}
        self.held_bytes = whole(values["bytes"])
        names: dict[QueryKey, tuple[str, Grid]] = {}
        for i, (step, layer, call) in enumerate(listed(own, 3) for own in listed(values["queries"], MOST_ENTRIES)):
            key = QueryKey(count(step), line(layer), count(call))
            if key.layer not in self.scales:
                raise ValueError(f"the factor of the scores of {short_repr(key.layer)} is not known")
            names[key] = (str(i), self.grids_of[key.layer])
        read = _ReadQueries(records.tensors, run.settings.images)
        self.queries = TensorsByKey(names, read)  # type: ignore[assignment]

    def _wants(self, grid: Grid) -> bool:
        return self.grids is None or grid in self.grids


@dataclass(frozen=True)
class _ReadQueries:
    """Reads queries of a saved run. A class, and no function inside another, which no pickle can hold."""

    tensors: Tensors
    images: int

    def __call__(self, place: tuple[str, Grid]) -> Shaped[Tensor, "images heads positions width"]:
        (name, grid), images = place, self.images
        x = self.tensors[name]
        if x.ndim != 4 or x.shape[0] < images or x.shape[2] != prod(grid) or not (x.numel() and x.dtype in FLOATING):
            raise ValueError(f"the queries {name}, {said(x)}, are none of {images} images of {said_grid(grid)} places")
        return x


def refuse_joint(model: object) -> None:
    """Raise ValueError for a model without cross-attention, whose texts cannot be shown after the run."""
    modules, kind_of = model.modules, model.attention_kind  # type: ignore[attr-defined]
    if "cross" not in map(kind_of, modules.values()):
        raise ValueError(
            "this model has no cross-attention: in joint attention the keys of a word depend on the picture, so a word "
            "that was not shown cannot be attributed from queries. For maps of words of the prompt there, use the "
            'method "output_space"'
        )
