"""Edits of pictures and of prompts on the embedded model: the tables of the page on control.

    python tests/benchmarks/control.py                    prints every table
    python tests/benchmarks/control.py swap weights       only these
    python tests/benchmarks/control.py --write            and writes them into the page

Each line is a mean over seeds with its interval of 95 %. What is drawn is told by the detector of coloured shapes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rendered_truth import write

import sdprobe
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.shapes.detect import Found, adherence, detect
from sdprobe.shapes.evaluate import held_out

DOCS = Path(__file__).parents[2] / "docs" / "concepts"
PAGE, PAGES = DOCS / "control.md", {"guidances": DOCS / "guidance.md"}
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


def share(answers: Sequence[bool]) -> Estimate:
    """The share of yes among answers, or the mean of shares, with its interval within 0 and 1."""
    found = mean_with_interval(np.array(answers, float), bounded=True)
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))


def batches(values: Sequence[int]) -> Iterable[list[int]]:
    return (list(values[i : i + BATCH]) for i in range(0, len(values), BATCH))


def table(head: Sequence[str], lines: Mapping[str, Sequence[object]]) -> str:
    rows = [f"| {' | '.join(head)} |", f"|---|{'---|' * (len(head) - 1)}"]
    return "\n".join(rows + [f"| {name} | {' | '.join(map(str, cells))} |" for name, cells in lines.items()])


SWAPS = (
    ("a red circle left of a green square", "red", "circle", "blue"),
    ("a red star above a yellow ring", "red", "star", "blue"),
    ("a red square right of a purple circle", "red", "square", "blue"),
    ("a red triangle below a green ring", "red", "triangle", "blue"),
)
"""Source, the colour and the shape of the thing whose colour is swapped, and its new colour: 16 seeds each."""

EDITS = {
    "target prompt alone": {"cross": 0.0, "self_attention": 0.0},
    "attention replaced (.8), self-attention .4": {},
    "attention replaced (.8), self-attention .8": {"self_attention": 0.8},
    "the same, with local blend": {"self_attention": 0.8, "blend": True},
}


@dataclass
class Swapped:
    """What became of one picture: whether the new colour is there and the old one not; and what else has changed."""

    right: bool
    overlap: float
    outside: float
    beside: float


def swap(model) -> str:
    """A colour is swapped: whether the new one is there, where the thing is, and what else has changed."""
    found: dict[str, list[Swapped]] = {name: [] for name in EDITS}
    asked = 0
    for (source, colour, shape, new), seeds in zip(SWAPS, np.array_split(SEEDS, len(SWAPS)), strict=True):
        asked += len(seeds)
        for name, options in EDITS.items():
            words = ([colour, shape], [new, shape]) if options.get("blend") else None
            given = SETTINGS | options | {"blend": words}
            run = sdprobe.edit(model, source, source.replace(colour, new), seed=seeds.tolist(), **given)
            pairs = zip(run.images[: len(seeds)], run.images[len(seeds) :], strict=True)
            found[name] += [own for before, after in pairs if (own := swapped(before, after, colour, shape, new))]
    plain = np.mean([own.outside for own in found["target prompt alone"]])
    lines = {}
    for name, pictures in found.items():
        each = {field: np.array([getattr(own, field) for own in pictures], float) for field in vars(pictures[0])}
        lines[name] = [
            share(each["right"]),
            mean_with_interval(each["overlap"]),
            share(each["overlap"] >= 0.8),
            mean_with_interval(each["beside"]),
            mean_with_interval(each["outside"]),
            mean_with_interval(each["outside"] / plain),
        ]
    print(f"{len(pictures)} of {asked} sources show the thing that is edited; the others are left out")
    return table(
        (
            "edit",
            "new colour, not the old",
            "IoU of old and new thing",
            "IoU ≥ .8",
            "change of the other thing",
            "change outside of the thing",
            "of the plain change",
        ),
        lines,
    )


def swapped(before, after, colour: str, shape: str, new: str) -> Swapped | None:
    """Compare two pictures; None if the first does not show the thing."""
    old, now = seen(before, colour, shape), seen(after, new, shape)
    if old is None:
        return None
    change, apart = np.abs(pixels(after) - pixels(before)).mean(-1), ~grown(old.mask)
    others = [own.mask & apart for own in detect(np.asarray(before)) if own.colour != colour]
    beside = np.logical_or.reduce(others) if others else np.zeros_like(apart)
    return Swapped(
        right=now is not None and seen(after, colour, shape) is None,
        overlap=0.0 if now is None else overlap(old.mask, now.mask),
        outside=float(change[apart].mean()),
        beside=float(change[beside].mean()) if beside.any() else float("nan"),
    )


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


WAYS = {
    "words alone": lambda: [],
    "words hidden elsewhere (`HideTokens`)": lambda: [
        sdprobe.HideTokens(["red", "circle"], places=~LEFT_HALF),
        sdprobe.HideTokens(["blue", "square"], places=LEFT_HALF),
    ],
    "words concentrated (`Concentrate`, .25)": lambda: [
        sdprobe.Concentrate({"red circle": LEFT, "blue square": RIGHT}, strength=0.25)
    ],
    "`RegionalPrompts`": lambda: [sdprobe.RegionalPrompts({"a red circle": LEFT, "a blue square": RIGHT})],
    "`RegionalPrompts(base=0.5)`": lambda: [
        sdprobe.RegionalPrompts({"a red circle": LEFT, "a blue square": RIGHT}, base=0.5)
    ],
}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
LEFT_HALF = torch.arange(64).expand(64, 64) < 32


def regions(model) -> str:
    """Two things, each in its half of the picture: how often both are there."""
    lines = {}
    for name, hooks in WAYS.items():
        cells = []
        for prompt in ("a red circle and a blue square", "a blue square left of a red circle"):
            there = []
            for seeds in batches(SEEDS):
                run = sdprobe.sample(model, [prompt] * len(seeds), hooks=hooks(), seed=seeds, **SETTINGS)
                there += [in_place(image) for image in run.images]
            cells.append(share(there))
        lines[name] = cells
    return table(("how", "“… and …”", "the prompt says the opposite"), lines)


def in_place(image) -> bool:
    """Whether the red circle is in the left half, and the blue square in the right."""
    circle, square = seen(image, "red", "circle"), seen(image, "blue", "square")
    return circle is not None and square is not None and circle.centre[0] < 32 <= square.centre[0]


INVERSIONS = {
    "`ddim`": {"method": "ddim"},
    "`fixed-point`": {"method": "fixed-point"},
    "`negative-prompt`": {"method": "negative-prompt"},
    "`null-text`": {"method": "null-text"},
}
INVERTED = 12


def inversion(model) -> str:
    """Rendered scenes are inverted and made again: how near, beside the autoencoder alone."""
    scenes = [own for objects in (1, 2) for own in held_out(INVERTED // 2, objects)]
    given, captions = [own.image for own in scenes], [own.caption for own in scenes]
    lines = {}
    for name, options in INVERSIONS.items():
        cells = []
        for guidance_scale in (1.0, 5.0):
            if guidance_scale == 1 and name == "`null-text`":
                cells += ["as `fixed-point`", ""]
                continue
            found = sdprobe.invert(
                model,
                given,
                captions,
                steps=SETTINGS["steps"],
                guidance_scale=guidance_scale,
                progress=False,
                **options,
            )
            near = found.psnr(found.sample(progress=False)).numpy()
            cells += [mean_with_interval(near), f"{(found.autoencoder_psnr.numpy() - near).max():.1f}"]
        lines[name] = cells
    print(f"the autoencoder alone: {mean_with_interval(found.autoencoder_psnr.numpy())} dB")
    return table(("method", "guidance 1, dB", "worst, below the autoencoder", "guidance 5, dB", "worst"), lines)


GUIDED = {
    "at scale 15, in 12 steps": (
        {"guidance_scale": 15.0, "steps": 12},
        {
            "none": lambda: [],
            "`AdaptiveProjectedGuidance()`": lambda: [sdprobe.AdaptiveProjectedGuidance()],
            "`MagnitudeAwareGuidance()`": lambda: [sdprobe.MagnitudeAwareGuidance()],
            "`FrequencyDecoupledGuidance((10, 5))`": lambda: [sdprobe.FrequencyDecoupledGuidance((10.0, 5.0))],
            "`TangentialGuidance()`": lambda: [sdprobe.TangentialGuidance()],
            "`ZeroStarGuidance()`": lambda: [sdprobe.ZeroStarGuidance()],
            "`RescaleGuidance(0.7)`": lambda: [sdprobe.RescaleGuidance(0.7)],
        },
    ),
    "at scale 1, in 4 steps": (
        {"guidance_scale": 1.0, "steps": 4},
        {
            "none": lambda: [],
            '`SkipLayerGuidance(0.5, modules="down_blocks.0.*")`': lambda: [
                sdprobe.SkipLayerGuidance(0.5, modules="down_blocks.0.*")
            ],
            '`SmoothedEnergyGuidance(0.5, modules="*")`': lambda: [sdprobe.SmoothedEnergyGuidance(0.5, modules="*")],
            '`AutoGuidance(2.0, dropout=0.1, modules="*")`': lambda: [
                sdprobe.AutoGuidance(2.0, dropout=0.1, modules="*")
            ],
            '`PerturbedAttention(0.5, modules="*")`': lambda: [sdprobe.PerturbedAttention(0.5, modules="*")],
        },
    ),
}
FIRST = 16
"""The captions before are those on which scales were chosen."""


def guidances(model) -> str:
    """Captions that no scale was chosen on: how many of their objects are drawn, and how many values are clipped."""
    scenes = held_out(FIRST + len(SEEDS), objects=2)[FIRST:]
    tables = []
    for said, (settings, hooked) in GUIDED.items():
        lines = {}
        for name, hooks in hooked.items():
            drawn, clipped = [], []
            for numbers in batches(SEEDS):
                own = [scenes[k] for k in numbers]
                captions = [scene.caption for scene in own]
                run = sdprobe.sample(model, captions, hooks=hooks(), seed=numbers, progress=False, **settings)
                for scene, image in zip(own, run.images, strict=True):
                    drawn.append(np.mean(adherence(scene.objects, scene.background, np.asarray(image)).shapes))
                    clipped.append(np.mean((pixels(image) == 0) | (pixels(image) == 255)))
            lines[name] = [
                share(drawn),
                mean_with_interval(np.array(clipped, float)),
            ]
        tables.append(table((said, "objects drawn", "values clipped"), lines))
    return "\n\n".join(tables)


TABLES = {"swap": swap, "weights": weights, "inversion": inversion, "regions": regions, "guidances": guidances}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], default=[])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = sdprobe.load()
    for name in given.tables or TABLES:
        begun = time.perf_counter()
        print(f"\n{name}")
        printed = TABLES[name](model)
        print(printed, f"{time.perf_counter() - begun:.0f} s", sep="\n")
        if given.write:
            write(PAGES.get(name, PAGE), printed, (f"<!-- {name}: begin -->", f"<!-- {name}: end -->"))


if __name__ == "__main__":
    main()
