"""How far the model's pictures keep to captions it never saw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from .detect import adherence
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
