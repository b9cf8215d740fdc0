"""How often the embedded model draws what it is told, and how right its word heat maps are.

Prompts are captions of scenes never trained on, one picture each. A heat map is held against the mask of the object
that was really drawn, found by its colour. The one threshold for all maps is chosen on other prompts. Beside it stand
a random other word of the prompt, the start token, and a prior that always points at the middle.

    python tests/benchmarks/rendered_truth.py            prints the table
    python tests/benchmarks/rendered_truth.py --write    and writes it into the model card
    python tests/benchmarks/rendered_truth.py --model shapes-joint      another model, here that with joint attention
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import sdprobe
from sdprobe.plot.heatmap import HeatMap
from sdprobe.shapes import JOINT_WEIGHTS, WEIGHTS
from sdprobe.shapes.detect import adherence, detect
from sdprobe.shapes.evaluate import HELD_OUT, held_out
from sdprobe.shapes.scenes import Scene

MARKS = ("<!-- rendered truth: begin -->", "<!-- rendered truth: end -->")
PLACES = ("down", "up")
"""Where a U-Net's maps are taken from; a transformer's are taken from every block."""
BATCH = 20
THRESHOLDS = np.linspace(0.05, 0.95, 37)
JOINT_FLOOR = {
    "colour found": (".90", ".90"),
    "colour and shape found": (".60", ".60"),
    "relation right (both found)": ("–", ".80"),
}
FLOOR = {
    "colour found": (".95", ".85"),
    "colour and shape found": (".60", ".45"),
    "relation right (both found)": ("–", ".70"),
    "background right": (".90", ".90"),
    "colour word: mean IoU": (".55", ".45"),
    "colour word: pointing": (".90", ".80"),
    "above the random word (IoU)": ("–", ".20"),
}
GOAL = {
    "colour found": ("1.00", ".97"),
    "colour and shape found": (".95", ".85"),
    "relation right (both found)": ("–", ".95"),
    "background right": (".98", ".98"),
    "colour word: mean IoU": (".70", ".60"),
    "colour word: pointing": (".97", ".92"),
    "above the random word (IoU)": (".35", ".35"),
}


@dataclass
class Drawn:
    """One object asked for whose colour is in the picture: its mask and the maps held against it."""

    mask: np.ndarray
    maps: dict[str, np.ndarray]


@dataclass
class Group:
    """What was seen in the pictures of one number of objects."""

    colours: list[bool] = field(default_factory=list)
    shapes: list[bool] = field(default_factory=list)
    relations: list[bool] = field(default_factory=list)
    backgrounds: list[bool] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)


def observe(model: sdprobe.Model, scenes: Sequence[Scene], seed: int, steps: int, guidance_scale: float) -> Group:
    """Draw a picture for every caption and look at it and at its heat maps."""
    group, rng = Group(), np.random.default_rng(seed)
    maps = sdprobe.AttentionMaps(places=PLACES if model.network == "unet" else None)
    for start in tqdm(range(0, len(scenes), BATCH), unit_scale=BATCH, desc=f"{len(scenes[0].objects)} objects"):
        part = scenes[start : start + BATCH]
        run = sdprobe.sample(
            model,
            [scene.caption for scene in part],
            hooks=[maps],
            steps=steps,
            guidance_scale=guidance_scale,
            seed=[seed + start + i for i in range(len(part))],
            progress=False,
        )
        for i, scene in enumerate(part):
            picture = np.asarray(run.images[i])
            seen = adherence(scene.objects, scene.background, picture)
            group.colours += seen.colours
            group.shapes += seen.shapes
            if scene.statement.background:
                group.backgrounds.append(seen.background)
            if scene.statement.relation and seen.relation is not None:
                group.relations.append(seen.relation)
            found = detect(picture)
            for thing in scene.objects:
                masks = [own.mask for own in found if own.colour == thing.colour]
                if masks:
                    others = [word for word in run.prompt_of(i).words if word != thing.colour]
                    words = {"colour word": thing.colour, "random word": str(rng.choice(others)), "start": "<start>"}
                    heats = {name: at_64(run[maps].heat_map(word, image=i)) for name, word in words.items()}
                    group.drawn.append(Drawn(np.logical_or.reduce(masks), heats | {"middle": middle()}))
    return group


def at_64(heat: HeatMap) -> np.ndarray:
    """The map at the picture's size, from 0 to 1."""
    return heat.resize((64, 64)).normalized().values.numpy()


def middle() -> np.ndarray:
    """A prior that knows nothing but that things are often in the middle."""
    y, x = np.mgrid[0:64, 0:64] - 31.5
    return np.exp(-(x**2 + y**2) / (2 * 16**2))


def iou(drawn: Sequence[Drawn], name: str, threshold: float) -> float:
    """Mean intersection over union of the maps of one kind at a threshold."""
    pairs = [(own.maps[name] > threshold, own.mask) for own in drawn]
    return float(np.mean([(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs])) if pairs else 0.0


def pointing(drawn: Sequence[Drawn], name: str) -> float:
    """How often the hottest pixel lies in the mask."""
    hits = [own.mask.flat[own.maps[name].argmax()] for own in drawn]
    return float(np.mean(hits)) if hits else 0.0


def table(
    groups: dict[int, Group], thresholds: dict[str, float], caption: str, floor: dict[str, tuple[str, str]] = FLOOR
) -> str:
    """The figures as a Markdown table, floor and goal beside them."""
    share: Callable[[list[bool]], str] = lambda hits: f"{np.mean(hits):.2f}" if hits else "–"  # noqa: E731
    one, two = groups[1], groups[2]
    rows = {
        "colour found": [share(g.colours) for g in (one, two)],
        "colour and shape found": [share(g.shapes) for g in (one, two)],
        "relation right (both found)": ["–", share(two.relations)],
        "background right": [share(g.backgrounds) for g in (one, two)],
    }
    for name in thresholds:
        rows[f"{name}: mean IoU"] = [f"{iou(g.drawn, name, thresholds[name]):.2f}" for g in (one, two)]
        rows[f"{name}: pointing"] = [f"{pointing(g.drawn, name):.2f}" for g in (one, two)]
    gap = [iou(g.drawn, "colour word", thresholds["colour word"]) for g in (one, two)]
    control = [iou(g.drawn, "random word", thresholds["random word"]) for g in (one, two)]
    rows["above the random word (IoU)"] = [f"{a - b:.2f}" for a, b in zip(gap, control, strict=True)]
    lines = [
        caption,
        "",
        "| | one object | two objects | floor (one, two) | goal (one, two) |",
        "|---|---|---|---|---|",
    ]
    for name, (a, b) in rows.items():
        least, goal = (", ".join(bars.get(name, ())) for bars in (floor, GOAL))
        lines.append(f"| {name} | {a} | {b} | {least} | {goal} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it into the model card if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=120, help="captions of one object, and as many of two")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--model", help="shapes-joint, or a folder of a model of shapes; default: the embedded model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = sdprobe.load(given.model)
    other: list[Drawn] = []
    for objects in (1, 2):
        scenes = held_out(max(given.prompts // 3, 1), objects, first=HELD_OUT + 5_000_000)
        other += observe(model, scenes, 500_000, given.steps, given.guidance_scale).drawn
    names = ("colour word", "random word", "start", "middle")
    thresholds = {name: max(THRESHOLDS, key=lambda t, name=name: iou(other, name, t)) for name in names}
    groups = {
        objects: observe(model, held_out(given.prompts, objects), 0, given.steps, given.guidance_scale)
        for objects in (1, 2)
    }
    chosen = ", ".join(f"{name} {value:.3f}" for name, value in thresholds.items())
    where = " and ".join(PLACES) if model.network == "unet" else "all"
    caption = (
        f"{2 * given.prompts} held-out prompts, one seed each, {given.steps} steps, guidance {given.guidance_scale:g}. "
        f"Heat maps are means over {where} blocks; thresholds, chosen on {len(other)} objects of other prompts: "
        f"{chosen}."
    )
    printed = table(groups, thresholds, caption, FLOOR if model.network == "unet" else JOINT_FLOOR)
    print(printed)
    if given.write:
        write(card_of(given.model), printed)


def card_of(model: str | None) -> Path:
    """The card of a model as `sdprobe.load` names it."""
    folder = {None: WEIGHTS, "shapes-joint": JOINT_WEIGHTS}.get(model) or Path(str(model))
    return folder / "README.md"


def write(card: Path, printed: str, marks: tuple[str, str] = MARKS) -> None:
    """Put a table between its marks in the model card."""
    begin, end = marks
    text = card.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{card} has no marks {begin} … {end}")
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    card.write_text(re.sub(pattern, lambda _: f"{begin}\n{printed}\n{end}", text, flags=re.S))


if __name__ == "__main__":
    main()
