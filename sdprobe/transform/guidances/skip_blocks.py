"""`SkipBlocks`: transformer blocks that give what they were given, or that drop part of what they give."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sdprobe.core.hook import Transform, patterns
from sdprobe.core.module_names import fits
from sdprobe.core.run import Run
from sdprobe.core.site import Site

Key = tuple[str, str, int]


class SkipBlocks(Transform):
    """Return a block's own input as its output, in every stream, or its output after dropout.

    For one call of the denoiser, in `Step.predict`: it keeps the inputs of the blocks.

    >>> import sdprobe
    >>> class Skipped(sdprobe.Observer):
    ...     def start(self, run):
    ...         self.changes = []
    ...     def noise_pred(self, x, step):
    ...         without = step.predict(step.latents, SkipBlocks(blocks_of(step.run, "up_blocks.*")), role="cond")
    ...         self.changes.append(float((without - step.model_output[step.rows_of("cond")]).norm()))
    >>> skipped = Skipped()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[skipped], steps=2, seed=0, progress=False)
    >>> all(change > 0 for change in run[skipped].changes)
    True

    Args:
        blocks: their dotted names, see `blocks_of`.
        dropout: the probability with which each number of the output is dropped; the others are divided by what is
            left of 1. With 1, the block is skipped.
        seed: of the dropout. What is dropped is the same for every image, and differs from block to block and from
            step to step.

    Source: `TransformerBlockSkipHook` of diffusers, which does the same to blocks of one stream, with torch's global
    random numbers; the two streams of a joint block it gives in the wrong order.
    """

    def __init__(self, blocks: Sequence[str], dropout: float = 1.0, seed: int = 0) -> None:
        self.blocks, self.dropout, self.seed = tuple(blocks), dropout, seed
        self.modules = self.blocks
        self.sides = ("input", "output") if dropout == 1 else ("output",)
        self._given: dict[Key, Tensor] = {}

    def activation(self, x: Tensor, site: Site) -> Tensor:
        if self.dropout < 1:
            return x * self._kept(x, site)
        key = (site.name, site.stream, site.call)
        if site.side == "input":
            self._given[key] = x
            return x
        return self._given.pop(key)

    def _kept(self, x: Tensor, site: Site) -> Tensor:
        """Return the factor of each number: 0, or 1 over the share that is kept."""
        place = f"{self.seed} {site.name} {site.stream} {site.call} {site.index}"
        generator = torch.Generator().manual_seed(zlib.crc32(place.encode()))
        kept = torch.empty(x.shape[1:], dtype=x.dtype).bernoulli_(1 - self.dropout, generator=generator)
        return kept.div_(1 - self.dropout).to(x.device)


def blocks_of(run: Run, modules: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the transformer blocks of a run's denoiser that patterns match.

    Args:
        run: the run.
        modules: patterns on dotted module names; None for the middle: the blocks in the middle block of a U-Net, the
            middle one of a transformer.

    Raises:
        ValueError: for a pattern that matches no block; the message lists them.
    """
    sites = [name for name, module in run.model.modules.items() if run.model.attention_kind(module)]
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in sites))
    if modules is None:
        return tuple(name for name in blocks if fits(f"{name}.", run.model.middle))
    for pattern in patterns(modules) or ():
        if not any(fits(name, pattern) for name in blocks):
            raise ValueError(f"the pattern {pattern!r} matches none of the model's blocks: {', '.join(blocks)}")
    return tuple(name for name in blocks if any(fits(name, pattern) for pattern in patterns(modules) or ()))
