"""`InjectSelfAttention`: an edit has the composition of its source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.hook import asks
from sdprobe.core.possible_grids import Grid, as_grids
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.transform.prompt_to_prompt.source_of_attention import AttentionFromSource, Source, SourceRows

PLACES = 16 * 16
"""The most places of a grid in the authors' code."""


class InjectSelfAttention(AttentionFromSource):
    """Give an edited prompt the self-attention of its source: the picture's places look at each other as they do there.

    In joint attention these are the columns of the picture in the rows of its places; the text's columns stay, and
    nothing is scaled. With `ReplaceAttention` all that a place looks at is then the source's.

    >>> import sdprobe
    >>> prompts = ["a red circle left of a blue square", "a green circle left of a blue square"]
    >>> settings = {"steps": 4, "seed": [0, 0], "guidance_scale": 5.0, "progress": False}
    >>> hooks = [sdprobe.ReplaceAttention(until=0.8), sdprobe.InjectSelfAttention()]
    >>> run = sdprobe.sample(sdprobe.load(), prompts, hooks=hooks, **settings)
    >>> hooks[1]
    InjectSelfAttention()

    Args:
        source: where attention comes from: a number of a prompt of the run, or the record of an earlier run, as in
            `ReplaceAttention`; made by an `AttentionRecorder` with ``kinds=("cross", "self")``, or with
            ``columns=("text", "image")`` in joint attention.
        until: the share of the steps in which it acts, from the first step on.
        grids: only sites of these grids, ``(h, w)`` or a number for a square one. None for those of at most 16 × 16
            places, as in the paper, or of at most a quarter of the latents' height and width, which is the same for
            Stable Diffusion at 512 × 512; where no site has one, for the smallest grid that there is. A transformer,
            which has one grid, so has all sites.
        targets: the numbers of the prompts that are edited; None for all but the source.
        modules: fnmatch patterns on dotted module names; None for every site of self- and joint attention.

    Rows, further calls and errors are as in `ReplaceAttention`.

    Raises:
        TypeError: in a run, for a source that holds no record.
        ValueError: for a share that is none, and targets that are none. Before the run: for a source, target or grid
            that it lacks, one prompt and no record, rows without the source, and a record of another number of steps
            or another scheduler. In the run, for another size of the picture than the record's.
        KeyError: in the run, for a step or site that is not in the record.

    Source: Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3 and the authors'
    code, whose limit is 16 × 16 places for pictures of every size.
    """

    kinds = ("self", "joint")
    columns = "image"

    def __init__(
        self,
        source: Source = 0,
        *,
        until: float = 0.4,
        grids: Collection[int | Grid] | None = None,
        targets: int | Sequence[int] | None = None,
        modules: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(source, until=until, targets=targets, modules=modules)
        self.grids = as_grids(grids)

    def start(self, run: Run) -> None:
        self._chosen = self._grids(run)
        super().start(run)

    def acts_at(self, site: Site) -> bool:
        chosen = vars(self).get("_chosen") or self._grids(site.run)  # a hook given to a further call was not started
        return super().acts_at(site) and site.grid in chosen

    def edited(
        self, found: SourceRows, targets: Sequence[Prompt], own: Callable[[], Tensor], count: int
    ) -> Float[Tensor, "edits heads queries columns"]:
        return found.probs

    def _grids(self, run: Run) -> list[Grid]:
        """Return the grids where it acts. Raises ValueError if no site has one of those asked for."""
        model, settings = run.model, run.settings
        kinds = {name: model.attention_kind(module) for name, module in model.modules.items()}
        names = [name for name, kind in kinds.items() if kind in self.kinds and asks(self, name, kind)]
        every = sorted({grid for name in names if (grid := model.grid_at(name, settings)) is not None})
        if self.grids is not None:
            if not (found := [grid for grid in every if grid in self.grids]):
                raise ValueError(f"{self!r}: no site has one of these grids; at this size they are among {every}")
            return found
        h, w = (max(sides) for sides in zip(*[own[-2:] for own in model.grids(settings).values()], strict=True))
        # A side that is odd is halved upwards.
        few = [g for g in every if prod(g[-2:]) <= PLACES or (g[-2] <= -(-h // 4) and g[-1] <= -(-w // 4))]
        return few or every[:1]
