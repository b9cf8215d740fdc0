"""`Site`: where in a network a value passes: an attention call, or a tensor that a module takes or gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.grid import Grid
from sdprobe.core.rows import Row
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.core.text import Text


@dataclass(frozen=True)
class Site:
    """The second argument inside a network: one attention module, or one tensor that a module takes or gives.

    Args:
        name: the module's dotted name.
        kind: ``"cross"``, ``"self"``, ``"joint"``; ``"text"`` where the prompt's tokens look at each other alone,
            before any image; ``"image_prompt"`` (IP-Adapter); ``"activation"`` for a tensor.
        place: the part of the network, from the module's name: ``"down"``, ``"mid"``, ``"up"`` in a U-Net.
        grid: ``(h, w)`` of the image positions there, ``(t, h, w)`` in a video of t latent frames, or None if they do
            not form a grid.
        heads: number of attention heads; of an activation, how many heads its width is divided into, side by side, as
            at the input of ``to_out.0``; 0 if it is not.
        step: the step. Sites outside the steps have none: those in a text encoder or the autoencoder.
        image: the range of the image positions on the query axis; in self- and joint attention also on the key axis; of
            an activation ``[rows, positions, width]``, on its second axis.
        text: the range of the prompt's tokens on the key axis, if any; in joint attention also on the query axis; of an
            activation, on its second axis.
        reference: the range of the positions of reference pictures, which the network is shown beside the one that it
            makes (Flux Kontext), on the same axes as ``image``; None if there are none. They are no part of ``image``.
        attends_to: ``"text"``, ``"image"``, ``"image and text"`` or ``"image prompt 0"``, ...; empty for an activation.
        stream: which of the module's tensors it is: ``"hidden"`` for a module of one tensor; ``"image"`` and ``"text"``
            in the blocks of a joint transformer; ``"skip 0"``, ... of a U-Net's blocks; else an argument's own name.
            Empty for attention.
        side: ``"output"`` for what a module gives, ``"input"`` for what it takes. Empty for attention.
        call: which call of the module, where it runs several times in one pass of its network, counted from 0.

    In joint attention ``attn.probs(queries=site.image, tokens=site.text)`` is the attention from image to text, and
    with ``tokens=site.reference`` that to the reference pictures.
    """

    name: str
    kind: str
    place: str
    grid: Grid | None
    heads: int
    step: Step = field(repr=False)
    image: slice = field(default_factory=lambda: slice(None), repr=False, compare=False)
    text: slice | None = field(default=None, repr=False, compare=False)
    attends_to: str = field(default="", repr=False)
    stream: str = ""
    side: str = ""
    call: int = 0
    reference: slice | None = field(default=None, repr=False, compare=False)

    @property
    def run(self) -> Run:
        """The run."""
        return self.step.run

    @property
    def index(self) -> int | None:
        """The number of the step; None outside the steps: in a text encoder or the autoencoder."""
        return self.step.index

    @property
    def further(self) -> bool:
        """Whether this is in a further call of the denoiser, which a hook made by `Step.predict`."""
        return self.step.further

    @property
    def rows(self) -> tuple[Row, ...]:
        """What each entry of an activation's first axis is."""
        return self.step.rows

    def tokens(self, of: str | Sequence[int] | None = None) -> list[int]:
        """Return the positions of the prompt's tokens on the key axis.

        Args:
            of: token positions of the prompt; or a text encoder's name, such as ``"text_encoder_3"``, for its tokens;
                None for every token.

        Raises:
            ValueError: at a site without text, for an encoder whose tokens the denoiser does not get, and for positions
                of padding where the denoiser is not shown it.
        """
        if self.text is None:
            raise ValueError(f"{self.name} is {self.kind}-attention, where no prompt is looked at")
        every = range(self.text.start, self.text.stop)
        if of is None:
            return list(every)
        if isinstance(of, str):
            of = self.step.rows[0].prompt.of(of)
        if beyond := [position for position in of if not -len(every) <= position < len(every)]:
            raise ValueError(
                f"{self.name} sees {len(every)} tokens of the prompt, and token {beyond[0]} is padding, which this "
                f"model's denoiser is not shown"
            )
        return [every[position] for position in of]


@dataclass(frozen=True)
class OutsideSite(Site):
    """A site in a text encoder, which runs before the steps, or in the autoencoder, which runs after them.

    Args:
        during: the `Text` that is encoded, or the `Run` whose latents are decoded.
        entries: what each entry is; in a text encoder there is one for each prompt, with the first of its images.
    """

    step: Step = field(init=False, repr=False, compare=False)  # there is none
    during: Text | Run = field(kw_only=True, repr=False)
    entries: tuple[Row, ...] = field(kw_only=True, repr=False)

    def __getattr__(self, name: str) -> Any:
        if name == "step":
            raise AttributeError(
                f"{self.name} runs outside the steps, so its site has no step; its run is site.run, and its entries "
                f"are site.rows"
            )
        raise AttributeError(f"a site has no {name!r}")

    @property
    def index(self) -> None:
        return None

    @property
    def further(self) -> bool:
        return False

    @property
    def run(self) -> Run:
        return self.during if isinstance(self.during, Run) else self.during.run

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.entries


def is_map(x: Shaped[Tensor, "rows ..."], site: Site) -> bool:
    """Whether an activation is ``[rows, channels, h, w]``, not ``[rows, heads, tokens, width]`` as within attention.

    In a video it is ``[rows, channels, frames, h, w]``.
    """
    return x.ndim in (4, 5) and tuple(x.shape[2:]) == site.grid
