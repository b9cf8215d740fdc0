"""`AttentionGuidance`: guide x_t with the gradient of a loss on cross-attention. `CrossAttention`: its input."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe import plot
from sdprobe.core.attention import Attention
from sdprobe.core.data_frame import data_frame, each_cell
from sdprobe.core.grid import Grid as Grid
from sdprobe.core.grid import image_grid
from sdprobe.core.hook import Transform
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.written_values import count, listed
from sdprobe.transform.guidances.guidance import Guidance, Scale, checked_scale
from sdprobe.transform.measured_steps import MeasuredSteps

Word = str | int | tuple[str, int]
Latents = Shaped[Tensor, "images channels *size"]
PerImage = Float[Tensor, " images"]
MEASURED = ("losses", "pushes", "changes")


@dataclass(frozen=True)
class CrossAttention:
    """The cross-attention of one image in one call of the denoiser: probabilities with gradients.

    Args:
        prompt: the image's prompt.
        sites: probabilities of every site used, ``[heads, h, w, tokens]``. Over the tokens they sum to 1; in joint
            attention to less, as the rest goes to image positions.
    """

    prompt: Prompt
    sites: tuple[Float[Tensor, "heads h w tokens"], ...] = field(repr=False)

    def mean(self) -> Float[Tensor, "h w tokens"]:
        """Return the mean over the heads of all sites, which must have the same grid."""
        return torch.cat(self.sites).mean(0)

    def tokens_of(self, word: Word) -> tuple[tuple[int, ...], ...]:
        """Return the token positions of a word: one tuple per occurrence, none if it does not occur."""
        return tokens_of(self.prompt, word)


class AttentionGuidance(Transform):
    """Guide x_t, before a step, with the gradient of a loss on the denoiser's cross-attention.

    Before the loop's own call, the denoiser is called once more, with gradients and only for the rows of the prompt,
    and x_t becomes x_t − scale · σ² · g. Here σ is the noise in x_t, in the scheduler's own scale (`Step.noise`), so a
    scale means the same under every scheduler. Each image of a run has its own loss and gradient. `AttendAndExcite` and
    `LayoutGuidance` are two such losses. For another loss, derive a class and define it:

    >>> import sdprobe
    >>> from sdprobe.transform.attention_loss_guidance import AttentionGuidance
    >>> class Apart(AttentionGuidance):
    ...     def loss(self, looks):
    ...         maps = [looks.mean()[..., positions].mean(-1) for w in self.words for positions in looks.tokens_of(w)]
    ...         return (maps[0] / maps[0].sum() * maps[1] / maps[1].sum()).sum()
    >>> apart = Apart(["circle", "square"], scale=100)
    >>> prompt = "a red circle and a blue square"
    >>> run = sdprobe.sample(sdprobe.load(), prompt, hooks=[apart], steps=4, seed=0, progress=False)
    >>> run[apart].losses.shape, run[apart].indices
    (torch.Size([4, 1]), [0, 1, 2, 3])

    Each update costs a call of the denoiser for the rows of the prompt, and its gradient. On the embedded model, for
    one image of 64×64 px on one CPU core, a step with one update takes 2.3 times as long as a plain one, or 3.0 times
    in a run without classifier-free guidance.

    Args:
        words: the words whose attention the loss uses: a word or phrase, meaning every occurrence; ``(word, 1)``, only
            its second occurrence; or a token position.
        scale: the strength: one number, one for each step, or a function of the `Step`. With 0 the run is exactly as
            without this hook, and the losses are recorded.
        stop: the first step that is not guided; None guides the first `share` of the steps. For other limits, use
            `sdprobe.only`.
        repeats: the maximum number of updates in a step: another one is made while the loss is above ``enough``.
        enough: the loss at which no further update is made.
        grids: use only sites of these grids, ``(h, w)`` or a number for a square one. None is `usual_grid`: the
            coarsest of the down and up blocks, 16×16 in Stable Diffusion at 512 pixels, 8×8 in the embedded model.

    Attributes:
        indices: (in a run, like all that follow) the numbers of the guided steps.
        losses: ``[steps, images]``, before the first update of each step; 0 for a prompt that has none of the words.
        pushes: ``[steps, images]``, the number of updates.
        changes: ``[steps, images]``, the root mean square of the change of x_t, in standard deviations of x_t.

    Raises:
        WordNotInPrompt: if no prompt of the run has a word; the message lists the prompt's words.
        ValueError: before the first step, for a grid that no site can have; at the first step, for one that no site
            has.
        FloatingPointError: in a step whose gradient is not finite.
    """

    share: ClassVar[float] = 1.0

    def __init__(
        self,
        words: Collection[Word],
        scale: Scale,
        *,
        stop: int | None = None,
        repeats: int = 1,
        enough: float = 0.0,
        grids: Collection[int | Grid] | None = None,
    ) -> None:
        if repeats < 1:
            raise ValueError(f"repeats must be 1 or more, not {repeats}")
        self.words = (words,) if isinstance(words, str) else tuple(words)
        if not self.words:
            raise ValueError("give at least one word")
        self.scale, self.stop, self.repeats, self.enough = checked_scale(scale), stop, repeats, enough
        self.grids = None if grids is None else tuple((g, g) if isinstance(g, int) else g for g in grids)

    @abstractmethod
    def loss(self, looks: CrossAttention) -> Float[Tensor, ""] | None:
        """Return the loss of one image, to be minimized; None if its prompt has none of the words."""

    def rate(self, step: Step) -> float:
        """Return the step size of x_t per unit of gradient, at this step."""
        return Guidance(self.scale).at(step) * step.noise**2

    def rounds(self, step: Step) -> tuple[int, float]:
        """Return the maximum number of updates of a step, and the loss at which no further update is made."""
        return self.repeats, self.enough

    def usual_grid(self, grids: Sequence[Grid]) -> Grid:
        """Return the default grid, from the grids of the cross-attention in the down and up blocks."""
        return min(grids, key=math.prod)

    def start(self, run: Run) -> None:
        for word in self.words:
            if not any(tokens_of(prompt, word) for prompt in run.prompts):
                text, occurrence = word if isinstance(word, tuple) else (word, None)
                run.prompts[0].positions(text, occurrence)  # raises an error that lists the words
        known = [image_grid(grid, repr(self)) for grid in run.model.grids(run.settings).values()]
        if unknown := [grid for grid in self.grids or () if grid not in known]:
            raise ValueError(f"no site can have a grid of {unknown}; at this size they are among {known}")
        self.indices: list[int] = []
        self._measured = MeasuredSteps(MEASURED)

    def latents(self, x: Tensor, step: Step) -> Tensor:
        if not self.during(step):
            return x
        rate, (most, enough) = self.rate(step), self.rounds(step)
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        pushes, moved, first = torch.zeros(len(x), device=x.device), x, None
        for left in reversed(range(most)):
            losses, gradient = self._gradient(moved, step)
            first = losses if first is None else first
            if not rate:
                break
            moved = torch.where(_each(going), moved - rate * gradient, moved)
            pushes += going
            going &= losses > enough
            if not left or not going.any():
                break
        assert first is not None  # there is always a first round
        change = (moved - x).float().flatten(1).square().mean(1).sqrt() / _spread(step)
        self.indices.append(step.index)
        self._measured.add(first, pushes, change)
        return moved

    def finish(self, run: Run) -> None:
        self._measured.finish()

    def records(self) -> HookRecords:
        own = super().records()
        return replace(own, tensors={**own.tensors, **self._measured.tensors})

    def restore(self, records: HookRecords, run: Run) -> None:
        super().restore(records, run)
        self.indices = [*map(count, listed(self.indices))]
        self._measured = MeasuredSteps.restored(MEASURED, records.tensors, len(self.indices))

    def during(self, step: Step) -> bool:
        """Whether a step is guided."""
        return step.index < (math.ceil(self.share * step.total) if self.stop is None else self.stop)

    @property
    def losses(self) -> Float[Tensor, "steps images"]:
        return self._measured["losses"]

    @property
    def pushes(self) -> Float[Tensor, "steps images"]:
        return self._measured["pushes"]

    @property
    def changes(self) -> Float[Tensor, "steps images"]:
        return self._measured["changes"]

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each step and image.

        >>> import sdprobe
        >>> excite = sdprobe.AttendAndExcite(["circle", "square"])
        >>> prompt = "a red circle and a blue square"
        >>> run = sdprobe.sample(sdprobe.load(), prompt, hooks=[excite], steps=4, seed=0, progress=False)
        >>> run[excite].to_pandas()[["step", "image", "pushes"]]
           step  image  pushes
        0     0      0     ...
        1     1      0     ...

        Raises ImportError if pandas is not installed.
        """
        kept = {"loss": self.losses.numpy(), "pushes": self.pushes.numpy(), "change": self.changes.numpy()}
        return data_frame(each_cell({"step": self.indices, "image": range(kept["loss"].shape[1])}, kept))

    def plot(self) -> Figure:
        """Plot losses, updates and changes of x_t over the steps: a line for each image."""
        kept = {"loss": self.losses, "pushes": self.pushes, "change of x_t\n(rms)": self.changes}
        figure = plot.curves(self.indices, {name: values.numpy() for name, values in kept.items()})
        figure.axes[1].set_ylim(0, float(self.pushes.max()) + 1)
        return figure

    def _gradient(self, x: Latents, step: Step) -> tuple[PerImage, Latents]:
        """Return the losses and their gradient with respect to x_t."""
        look, rows = _Look(), [row for row in step.rows if row.role == "cond"]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            step.predict(leaf, look, role="cond")
            sites = look.probs(self.grids or (self.usual_grid(look.outer),))
            found = [self.loss(CrossAttention(row.prompt, tuple(s[i] for s in sites))) for i, row in enumerate(rows)]
            losses = torch.stack([leaf.new_zeros((), dtype=torch.float32) if own is None else own for own in found])
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        good = losses.isfinite() & gradient.flatten(1).isfinite().all(1)
        if not good.all():
            image = int((~good).nonzero()[0])
            raise FloatingPointError(
                f"at step {step.index} of {step.total}, the gradient in {self!r} is no number, for image {image}: take "
                f"a smaller scale"
            )
        return losses.detach(), gradient


class _Look(Transform):
    """Records the cross-attention of one call, with its graph."""

    kinds = ("cross", "joint")

    def __init__(self) -> None:
        self.seen: list[tuple[Site, Attention]] = []

    def attention(self, attn: Attention, site: Site) -> Attention:
        # Compute nothing here: a checkpointed block is run again and must do the same work.
        self.seen.append((site, attn))
        return attn

    @property
    def outer(self) -> list[Grid]:
        """The grids of the down and up blocks, or of all blocks if those have no cross-attention."""
        known = [(s.place, image_grid(s.grid, "this guidance")) for s, _ in self.seen if s.grid is not None]
        return [grid for place, grid in known if place != "mid"] or [grid for _, grid in known]

    def probs(self, grids: tuple[Grid, ...]) -> list[Float[Tensor, "images heads h w tokens"]]:
        """Return the probabilities of all sites of these grids."""
        there = {site.grid for site, _ in self.seen if site.grid is not None}
        if missing := [grid for grid in grids if grid not in there]:
            raise ValueError(f"no cross-attention has a grid of {missing}; those there are: {sorted(there)}")
        return [
            attn.probs(rows="cond", queries=s.image, tokens=s.tokens()).unflatten(2, grid)
            for s, attn in self.seen
            if (grid := s.grid) in grids and grid
        ]


def tokens_of(prompt: Prompt, word: Word) -> tuple[tuple[int, ...], ...]:
    """Return the token positions of a word in a prompt: one tuple per occurrence, none if it does not occur."""
    if isinstance(word, int):
        return (prompt.positions(word),)
    if isinstance(word, str):
        return prompt.occurrences(word)
    text, occurrence = word
    found = prompt.occurrences(text)
    return found[occurrence : occurrence + 1 or None] if -len(found) <= occurrence < len(found) else ()


def _spread(step: Step) -> float:
    """Return the standard deviation of x_t, for x0 and noise of standard deviation 1."""
    return math.hypot(step.signal, step.noise)


def _each(values: Shaped[Tensor, " images"]) -> Shaped[Tensor, "images 1 1 1"]:
    return values[:, None, None, None]
