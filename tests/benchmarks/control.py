"""Edits of pictures and of prompts on the embedded model: the tables of the page on control.

    python tests/benchmarks/control.py                    prints every table
    python tests/benchmarks/control.py swap weights       only these
    python tests/benchmarks/control.py --write            and writes them into the page

Each line is a mean over seeds with its interval of 95 %. What is drawn is told by the detector of coloured shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import sdprobe
from sdprobe.experiments.bootstrap import mean_with_interval
from sdprobe.shapes.detect import Found, detect

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "control.md"
SEEDS = range(64)
BATCH = 16
SETTINGS = {"steps": 20, "guidance_scale": 5.0, "progress": False}
"""Of every run here."""


def pixels(image) -> np.ndarray:
    return np.asarray(image).astype(np.float32)


def seen(image, colour: str, shape: str | None = None) -> Found | None:
    """The largest thing of a colour, and of a shape, in a picture; None where there is none."""
    return next((own for own in detect(np.asarray(image)) if own.colour == colour and shape in (None, own.shape)), None)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def grown(mask: np.ndarray, by: int = 2) -> np.ndarray:
    """A mask and its rim, whose pixels hold something of both sides."""
    x = torch.as_tensor(mask)[None, None].float()
    return (torch.nn.functional.max_pool2d(x, 2 * by + 1, stride=1, padding=by)[0, 0] > 0).numpy()


def batches(values: Sequence[int]) -> Iterable[list[int]]:
    return (list(values[i : i + BATCH]) for i in range(0, len(values), BATCH))


def table(head: Sequence[str], lines: Mapping[str, Sequence[object]]) -> str:
    rows = [f"| {' | '.join(head)} |", f"|---|{'---|' * (len(head) - 1)}"]
    return "\n".join(rows + [f"| {name} | {' | '.join(map(str, cells))} |" for name, cells in lines.items()])


SWAPS = (
    ("a red circle left of a green square", "a blue circle left of a green square", ("red", "circle"), "blue"),
    ("a red star above a yellow ring", "a blue star above a yellow ring", ("red", "star"), "blue"),
    ("a red square right of a purple circle", "a blue square right of a purple circle", ("red", "square"), "blue"),
    ("a red triangle below a green ring", "a blue triangle below a green ring", ("red", "triangle"), "blue"),
)
"""Source, target, the thing whose colour is swapped, and its new colour; each with a quarter of the seeds."""

EDITS = {
    "another prompt alone": {"cross": 0.0, "self_attention": 0.0},
    "replaced attention": {},
    "replaced attention, local blend": {"blend": True},
}


def swap(model) -> str:
    """A colour is swapped: whether the new one is there, where the thing is, and what else has changed."""
    found = {name: {"right": [], "overlap": [], "outside": [], "beside": []} for name in EDITS}
    left_out = 0
    for (source, target, (colour, shape), new), seeds in zip(SWAPS, np.array_split(SEEDS, len(SWAPS)), strict=True):
        for seed in seeds.tolist():
            changes = {}
            for name, edit in EDITS.items():
                blend = ((colour, shape), (new, shape)) if edit.get("blend") else None
                run = sdprobe.edit(model, source, target, seed=seed, **{**SETTINGS, **edit, "blend": blend})
                before, after = run.images[:2]
                old, now = seen(before, colour, shape), seen(after, new, shape)
                if old is None:
                    break
                changes[name] = np.abs(pixels(after) - pixels(before)).mean(-1)
                found[name]["right"].append(now is not None and seen(after, colour, shape) is None)
                found[name]["overlap"].append(0.0 if now is None else overlap(old.mask, now.mask))
                apart = ~grown(old.mask)
                found[name]["outside"].append(changes[name][apart].mean())
                others = [own.mask for own in detect(np.asarray(before)) if own is not old and own.colour != colour]
                beside = np.logical_or.reduce(others) if others else np.zeros_like(apart)
                found[name]["beside"].append(changes[name][beside & apart].mean() if (beside & apart).any() else np.nan)
            else:
                continue
            left_out += 1
    lines = {}
    for name, own in found.items():
        overlaps = np.array(own["overlap"])
        share = np.array(own["outside"]) / np.array(found["another prompt alone"]["outside"]).mean()
        lines[name] = [
            mean_with_interval(np.array(own["right"], float), bounded=True),
            mean_with_interval(overlaps),
            mean_with_interval((overlaps >= 0.8).astype(float), bounded=True),
            mean_with_interval(np.array(own["outside"])),
            mean_with_interval(np.array(own["beside"])),
            mean_with_interval(share),
        ]
    head = (
        "edit",
        "new colour there, old one not",
        "IoU of old and new thing",
        "IoU ≥ .8",
        "change outside of it",
        "change of the other thing",
        "change outside, of the plain change",
    )
    count = len(found["another prompt alone"]["right"])
    print(f"{count} of {len(SEEDS)} seeds: in {left_out} the source does not show the thing")
    return table(head, lines)


WEIGHTS = (-2.0, 0.0, 0.5, 1.0, 2.0, 4.0)


def weights(model) -> str:
    """A colour word is weighted: how much of its colour there is."""
    found = {}
    for weight in WEIGHTS:
        hooks = [sdprobe.ReweightAttention({"red": weight})]
        reds = []
        for seeds in batches(SEEDS):
            prompts = ["a red circle left of a green square"] * len(seeds)
            run = sdprobe.sample(model, prompts, hooks=hooks, seed=seeds, **SETTINGS)
            reds += [redness(image) for image in run.images]
        found[weight] = np.array(reds)
    lines = {}
    for before, weight in zip((None, *WEIGHTS), WEIGHTS, strict=False):
        gain = "" if before is None else mean_with_interval(found[weight] - found[before])
        lines[f"{weight:g}"] = [mean_with_interval(found[weight]), gain]
    return table(("weight of “red”", "red of the picture", "more than at the weight before"), lines)


def redness(image) -> float:
    """The mean over the picture of how far red stands above the other two, in levels of 255."""
    x = pixels(image)
    return float(np.clip(x[..., 0] - np.maximum(x[..., 1], x[..., 2]), 0, None).mean())
