"""`AttentionMatrices`: attention from every token and place to every token and place, in all directions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod
from typing import Literal, get_args

from sdprobe.core.attention import Attention
from sdprobe.core.grid import Grid
from sdprobe.core.hook import patterns
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.possible_grids import as_grids, possible_grids
from sdprobe.core.rows import read_roles
from sdprobe.core.run import Role, Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.core.written_values import mapping
from sdprobe.observe.matrices_of_parts import MatricesOfParts
from sdprobe.observe.matrix_sums import (
    DIRECTIONS,
    Direction,
    MatrixKeep,
    MatrixKey,
    MatrixSize,
    MatrixSums,
    direction_of,
    no_direction,
    refuse_over,
)
from sdprobe.observe.memory_budget import MemoryBudget
from sdprobe.observe.prompt_readings import PromptReadings
from sdprobe.observe.recorded_sites import checked_budget, checked_rows, roles_of_rows


class AttentionMatrices(MatricesOfParts):
    """Record attention matrices: which tokens and places look at which, averaged over heads, sites and steps.

    In joint attention (Stable Diffusion 3, Flux) tokens and places look at both: there are four directions, and what a
    token or place looks at adds up to 1 over text and image. In a model with cross-attention, places look at the text
    and, elsewhere, at each other; the text looks at nothing within the denoiser.

    >>> import sdprobe
    >>> matrices = sdprobe.AttentionMatrices(grids=[8])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[matrices], steps=2, seed=0, progress=False)
    >>> run[matrices].matrix("image", "text"), run[matrices].matrix("image", "image")
    (LabelledMatrix(image→text, 64×32), LabelledMatrix(image→image, 64×64))
    >>> run[matrices].matrix("text", "image")
    Traceback (most recent call last):
    ValueError: text→image is not recorded: the text does not look at the picture in this model, ...

    Args:
        directions: only these, such as ``[("text", "text"), ("image", "text")]``; the part that looks is first. None
            for all that there are.
        rows: ``"cond"`` (the prompt), ``"uncond"`` (the negative prompt) or ``"both"``.
        keep: what to record separately instead of summing over it: ``"layer"``, so that Flux's double and single blocks
            can be told apart, ``"step"``, or both.
        modules: fnmatch patterns on module names, e.g. ``("single_transformer_blocks.*",)``; None for all.
        grids: only sites of these grids, ``(h, w)`` or a number for a square one; None for all.
        strict: raise an error if a site cannot be seen; False only lists it in ``run.coverage``.
        budget: how many bytes may be held on the model's device; None for a quarter of what is free there. What would
            be more is refused before the first step: image to image takes 67 MB for each picture of 64 × 64 places.
    """

    kinds: tuple[str, ...] = ("cross", "self", "joint")

    def __init__(
        self,
        directions: Sequence[Direction] | None = None,
        *,
        rows: Role | Literal["both"] = "cond",
        keep: MatrixKeep | Sequence[MatrixKeep] = (),
        modules: Sequence[str] | None = None,
        grids: Collection[int | Grid] | None = None,
        strict: bool = True,
        budget: int | float | None = None,
    ) -> None:
        kept: tuple[MatrixKeep, ...] = (keep,) if isinstance(keep, str) else tuple(keep)
        if unknown := [name for name in kept if name not in get_args(MatrixKeep)]:
            raise ValueError(f"cannot keep {unknown}; what can be kept apart: {', '.join(get_args(MatrixKeep))}")
        if directions is not None and not len(directions):
            raise ValueError("directions names at least one, such as [('image', 'text')], or is None for all")
        rows, budget = checked_rows(rows), checked_budget(budget)
        self.directions = None if directions is None else tuple(map(direction_of, directions))
        self.rows, self.keep, self.strict, self.budget = rows, kept, strict, budget
        self.modules = patterns(modules)
        self.grids = as_grids(grids)
        self._wanted = {
            kind: tuple(own for own in there if self.directions is None or own in self.directions)
            for kind, there in DIRECTIONS.items()
        }
        self.kinds = tuple(kind for kind in type(self).kinds if self._wanted[kind])

    def start(self, run: Run) -> None:
        self.run = run
        self.roles: tuple[Role, ...] = roles_of_rows(self.rows, run)
        kinds = {kind for module in run.model.modules.values() if (kind := run.model.attention_kind(module))}
        for parts in self.directions or ():
            if not any(parts in DIRECTIONS[kind] for kind in kinds):
                raise ValueError(no_direction(parts))
        grids = possible_grids(run, self.grids)
        self.readings = PromptReadings.of_run(run, self.roles, None)
        ways = {
            "directions=[...]": self.directions is None,
            f"less than keep={self.keep}": bool(self.keep),
            "grids=[...]": len(grids) > 1,
        }
        held = MemoryBudget(repr(self), self.budget, [way for way, helps in ways.items() if helps] or ["modules=[...]"])
        self.sums = MatrixSums(self.keep, held)

    def expect_sites(self, sites: Sequence[Site]) -> None:
        refuse_over(self.sums.budget, self.run.model.device, self.expected(sites))

    def expected(self, sites: Sequence[Site]) -> dict[MatrixKey, MatrixSize]:
        """Return the size of each sum that calls at these sites will make."""
        largest = max(possible_grids(self.run, self.grids), key=prod)
        images = self.run.settings.images
        by_role = {role: [self.run.prompt_of(image, role) for image in range(images)] for role in self.roles}
        return {
            MatrixKey.of_site(site, grid, role, self.readings.number_of(prompts), parts, self.keep): size
            for site in sites
            if self._wants(grid := site.grid or largest)
            for role, prompts in by_role.items()
            for parts in self._wanted[site.kind]
            if (size := MatrixSize.at(site, grid, images, parts)).numbers
        }

    def attention(self, attn: Attention, site: Site) -> None:
        if site.grid is None or not self._wants(site.grid):
            return
        for shown in self.readings.shown(site.step.rows, self.roles):
            self.sums.record(attn, site, site.grid, shown, self._wanted[site.kind])

    def records(self) -> HookRecords:
        own = {"readings": self.readings.to_plain(), "roles": self.roles}
        return replace(found := self.sums.records(), values={**found.values, **own})

    def restore(self, records: HookRecords, run: Run) -> None:
        if not isinstance(self.directions, (tuple, type(None))):  # beside an argument that no file could hold
            raise ValueError(f"{short_repr(self.directions)} are no directions")
        values, self.run = records.values, run
        self.readings = PromptReadings.from_plain(mapping(values["readings"]), run.settings.images)
        self.sums = MatrixSums.restored(records, self.readings, run.settings.images)
        self.roles = read_roles(values["roles"])

    @property
    def held_bytes(self) -> int:
        """The size of the recorded sums."""
        return self.sums.held_bytes

    def _wants(self, grid: Grid) -> bool:
        return self.grids is None or grid in self.grids
