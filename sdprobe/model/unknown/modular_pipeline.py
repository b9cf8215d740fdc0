"""Pipelines made of blocks: which they are, and which of their blocks are loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusers import ModularPipeline
from diffusers.modular_pipelines import LoopSequentialPipelineBlocks


def is_modular(pipe: Any) -> bool:
    """Whether a pipeline is made of blocks."""
    return isinstance(pipe, ModularPipeline)


def loops_of(pipe: Any) -> list[LoopSequentialPipelineBlocks]:
    """Return the blocks of a modular pipeline that are loops."""

    def within(block: Any) -> Iterator[LoopSequentialPipelineBlocks]:
        if isinstance(block, LoopSequentialPipelineBlocks):
            yield block
        for own in getattr(block, "sub_blocks", {}).values():
            yield from within(own)

    return list(within(pipe._blocks))  # pipe.blocks is a copy
