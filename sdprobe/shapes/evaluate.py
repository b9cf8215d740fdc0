"""How far the model's pictures keep to captions it never saw, and how far `detect` is to be trusted in saying so."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from .detect import Found, adherence
from .drawing import Image
from .scenes import Scene, scene

HELD_OUT = 30_000_000
"""First seed of the captions kept for figures; no training draws scenes from there on."""


def held_out(count: int, objects: int, first: int = HELD_OUT) -> list[Scene]:
    """Scenes whose captions name every colour and shape; of two objects, each of its own colour and shape."""
    found: list[Scene] = []
    seed = first + 1_000_000 * objects
    while len(found) < count:
        own = scene(seed, objects=objects, full=True)
        seed += 1
        if len({o.shape for o in own.objects}) == objects:
            found.append(own)
    return found


def draw(
    pipeline: DiffusionPipeline,
    captions: Sequence[str],
    steps: int = 25,
    guidance: float = 5.0,
    batch: int = 32,
    **options: Any,
) -> list[Image]:
    """One picture for each caption, each from its own noise. Options go to the pipeline's call."""
    call: Any = pipeline
    pictures: list[Image] = []
    for start in range(0, len(captions), batch):
        part = list(captions[start : start + batch])
        noises = [torch.Generator().manual_seed(start + k) for k in range(len(part))]
        settings = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": noises, **options}
        made = call(part, output_type="np", **settings).images
        pictures.extend((made * 255).round().astype(np.uint8))
    return pictures


def figures(
    pipeline: DiffusionPipeline, count: int = 100, steps: int = 25, guidance: float = 5.0, **options: Any
) -> dict[str, float]:
    """Shares of what was asked for and is seen, over `count` captions of one object and as many of two.

    Options go to the pipeline's call.

    Returns:
        `colour_1`, `colour_2`: objects whose colour is seen, in pictures of one and of two; `shape_1`, `shape_2`: those
        seen in colour and shape; `relation`: of pairs seen so and said to lie so, those that do; `background`: where
        the caption names it.
    """
    result: dict[str, float] = {}
    relations: list[bool] = []
    backgrounds: list[bool] = []
    for objects in (1, 2):
        asked = held_out(count, objects)
        pictures = draw(pipeline, [own.caption for own in asked], steps, guidance, **options)
        seen = [adherence(own.objects, own.background, picture) for own, picture in zip(asked, pictures, strict=True)]
        result[f"colour_{objects}"] = float(np.mean([ok for own in seen for ok in own.colours]))
        result[f"shape_{objects}"] = float(np.mean([ok for own in seen for ok in own.shapes]))
        for own, got in zip(asked, seen, strict=True):
            if own.statement.background:
                backgrounds.append(got.background)
            if own.statement.relation and got.relation is not None:
                relations.append(got.relation)
    result["relation"] = float(np.mean(relations)) if relations else 0.0
    result["background"] = float(np.mean(backgrounds)) if backgrounds else 0.0
    return result


@dataclass(frozen=True)
class Agreement:
    """What a detector found held against what is there: three counts.

    Attributes:
        right: things found that are there.
        found: things found.
        there: things there.
    """

    right: int
    found: int
    there: int

    @property
    def precision(self) -> float:
        """The share of things found that are there; 1 where nothing was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """The share of things there that were found; 1 where nothing is there."""
        return self.right / self.there if self.there else 1.0


def agreement(
    found: Iterable[Sequence[Found]],
    there: Iterable[Sequence[tuple[str, str | None]]],
    *,
    shapes: bool = True,
    least: float = 0.0,
) -> Agreement:
    """Hold what `detect` found in some pictures against what is there.

    Args:
        found: for each picture, what `detect` gives.
        there: for each picture, the colour and the shape of each thing in it; `None` for a thing without a shape.
        shapes: whether colour and shape must both be right, over things that have a shape; otherwise the colour alone,
            over all things.
        least: the score from which on a found thing counts.

    Example:
        >>> from sdprobe.shapes import detect, scene
        >>> own = scene(3, objects=2, full=True)
        >>> there = [[(thing.colour, thing.shape) for thing in own.objects]]
        >>> agreement([detect(own.image)], there)
        Agreement(right=2, found=2, there=2)
        >>> agreement([[]], there).recall
        0.0
    """
    right = claimed = existing = 0
    for things, real in zip(found, there, strict=True):
        kept = [thing for thing in things if thing.score >= least]
        mine = Counter((f.colour, f.shape if shapes else None) for f in kept if f.shape or not shapes)
        true = Counter((colour, shape if shapes else None) for colour, shape in real if shape or not shapes)
        right += (mine & true).total()
        claimed += mine.total()
        existing += true.total()
    return Agreement(right, claimed, existing)
