"""Further pipelines whose network is planted: the first step's heat map of a word, where they begin with given latents.

What is added beside the network, as by ControlNet, is added with a scale of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

import sdprobe
from sdprobe.stock_pipelines.pipeline_listener import attachable
from tests.planted_families import plant
from tests.stock_pipelines import Stock, attached

SCALES = ("controlnet_conditioning_scale", "adapter_conditioning_scale", "conditioning_scale")


class MarkedWord(sdprobe.Transform):
    """Prompt embeddings that are zero, but for a mark on the first token of a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def prompt_embeds(self, x: Tensor, text: sdprobe.Text) -> Tensor:
        marked = torch.zeros_like(x)
        if text.role != "uncond":
            for row, prompt in zip(marked, cycle(text.prompts), strict=False):
                row[prompt.positions(self.word)[0], 0] = 1
        return marked


class First(sdprobe.Observer):
    """The latents that the first step has."""

    def latents(self, x: Tensor, step: sdprobe.Step) -> None:
        if step.index == 0:
            self.found = x.clone()


def map_is_patch(make: Callable[[], Stock], word: str = "circle", other: str = "red") -> bool | None:
    """Whether at every site the heat map of the marked word, and not of another, is the patch of positive latents.

    None for a pipeline that does not begin with latents that it is given.
    """
    stock = make()
    takes = signature(type(stock.pipe).__call__).parameters
    if "latents" not in takes:
        return None
    shape = attached(make(), num_inference_steps=3).latents.shape  # of another, as some networks keep what they made
    plant(stock.pipe)
    noise = torch.zeros(shape)
    noise[:, 0] = -1
    noise[:, 0, ..., 2:4, 2:4] = 1
    maps = sdprobe.AttentionMaps(keep=("layer", "step"))
    run = _begun_with(stock, noise, MarkedWord(word), maps)
    if run is None:
        return None
    kept = run[maps]
    encoder = next(iter(run.prompts[0].parts)) if len(run.prompts[0].parts) > 1 else None
    patch = (noise.flatten(0, -3)[:1, None] > 0).float()
    found = []
    for layer in {key.layer for key in kept.sums}:
        own, another = (kept.heat_map(w, layer=layer, step=0, encoder=encoder).values for w in (word, other))
        truth = torch.nn.functional.interpolate(patch, own.shape[-2:], mode="area")[0, 0].expand_as(own)
        if truth.max() == 1:  # where the grid is too coarse, a cell holds more than the patch
            found.append(torch.allclose(own, truth, atol=0.1) and bool(another[truth == 1].max() < 0.1))
    return bool(found) and all(found)


def _begun_with(stock: Stock, noise: Tensor, *hooks: Any) -> sdprobe.Run | None:
    """The run of a call that is given latents, in the form in which its pipeline takes them; None if it takes none."""
    takes = signature(type(stock.pipe).__call__).parameters
    asked = {name: _none_of(stock.given.get(name)) for name in SCALES if name in takes}
    given = dict(stock.given)
    if "strength" in takes:
        asked["strength"] = 1.0
        given.pop("video", None)  # a pipeline takes either
    for own in (attachable(stock.pipe).packed(noise), noise):
        first = First()
        try:
            run = attached(Stock(stock.pipe, given), *hooks, first, latents=own, **asked, num_inference_steps=3)
        except ValueError:
            continue
        began = run[first].found
        if torch.allclose(began / began.abs().max(), noise, atol=1e-4):
            return run
    return None


def _none_of(scale: Any) -> Any:
    return [0.0] * len(scale) if isinstance(scale, list) else 0.0
