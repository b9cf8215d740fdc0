"""A run of several images, told again as the run of one video: its real attention, with an axis of frames."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from PIL import Image, ImageDraw

import sdprobe
from sdprobe.core.hook_records import HookRecords


def settings_of_a_video(settings: Any, frames: int) -> Any:
    """Settings of one video of so many frames."""
    if any(own.name == "frames" for own in fields(settings)):
        return replace(settings, images_per_prompt=1, frames=frames)
    made = replace(settings, images_per_prompt=1)
    object.__setattr__(made, "frames", frames)
    return made


def as_video(result: sdprobe.Run, maps: Any, pictures: Sequence[Image.Image]) -> tuple[sdprobe.Run, Any]:
    """The run in which image t is latent frame t of one video, with these frames; and the record of its attention."""
    run, kind = copy.copy(result), type(maps)
    run.settings = settings_of_a_video(result.settings, len(pictures))
    run.images = list(pictures)
    records = result[maps].records()
    values = copy.deepcopy(dict(records.values))
    tensors = {}
    for name, total in records.tensors.items():
        t, heads, places, tokens = total.shape
        tensors[name] = total.transpose(0, 1).reshape(1, heads, t * places, tokens)
    for written in values["sums"]:
        written[3] = [result.settings.images, *written[3]]
    values["readings"]["prompts"] = [own[:1] for own in values["readings"]["prompts"]]
    values["roles"], values["latent_size"] = list(values["roles"]), list(values["latent_size"])
    live = copy.copy(maps)
    assert isinstance(live, kind)
    live.restore(HookRecords(values, tensors), run)
    run.records = [(maps, live)]
    return run, live


def moving_square(frames: int = 9, size: tuple[int, int] = (48, 64), side: int = 16) -> list[Image.Image]:
    """A light square that moves from left to right over a dark ground."""
    h, w = size
    found = []
    for frame in range(frames):
        left = round((w - side) * frame / (frames - 1))
        picture = Image.new("RGB", (w, h), (60, 70, 90))
        box = (left, (h - side) // 2, left + side - 1, (h + side) // 2 - 1)
        ImageDraw.Draw(picture).rectangle(box, fill=(220, 200, 120))
        found.append(picture)
    return found


def moving_map(frames: int = 3, size: tuple[int, int] = (12, 16), side: int = 4) -> torch.Tensor:
    """A blob ``[frames, h, w]`` that moves from left to right, and is brightest in the last frame."""
    h, w = size
    y, x = torch.arange(h)[:, None] - (h - 1) / 2, torch.arange(w)[None]
    each = []
    for frame in range(frames):
        at = side / 2 + (w - side) * frame / max(frames - 1, 1)
        each.append(torch.exp(-(y**2 + (x - at + 0.5) ** 2) / side) * (0.5 + 0.5 * (frame + 1) / frames))
    return torch.stack(each)
