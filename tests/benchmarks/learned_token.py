"""Whether a token that was learnt from a few masked pictures finds the thing in others, beside its plain word.

Pictures are drawn from captions of scenes never trained on that have the thing, one picture each. The truth is the
mask of the thing that was really drawn, found by rule. A token is learnt from the first pictures; the threshold of each
plain map is chosen on the next; mean intersection over union is of all the others. The token's threshold is 0.5, chosen
nowhere, and beside it one that was chosen like the others.

    python tests/benchmarks/learned_token.py
    python tests/benchmarks/learned_token.py --things "blue star" --learn-from 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

import sdprobe
from sdprobe.attributions import Ovam
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.measures.things_seen import Thing
from sdprobe.plot.heatmap import HeatMap
from sdprobe.shapes.detect import detect
from sdprobe.shapes.evaluate import held_out
from sdprobe.shapes.scenes import Scene

BATCH = 20
SCENES = 2000
THRESHOLDS = np.linspace(0.05, 0.95, 37)


@dataclass
class Drawn:
    """A picture that shows the thing: its run, its number there, and the thing's mask."""

    run: sdprobe.Run
    image: int
    mask: np.ndarray


def scenes_of(thing: Thing) -> list[Scene]:
    """Held-out scenes of one object and of two, mixed, that have the thing."""
    every = [scene for objects in (1, 2) for scene in held_out(SCENES, objects)]
    found = [own for own in every if any(thing.shape in (None, o.shape) and _coloured(o, thing) for o in own.objects)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def _coloured(thing: object, asked: Thing) -> bool:
    return asked.colour in (None, getattr(thing, "colour", None))


def draw(model: sdprobe.Model, scenes: Sequence[Scene], thing: Thing, steps: int) -> Iterator[Drawn]:
    """Draw the scenes, and give those where the thing is seen."""
    hooks = {"maps": sdprobe.AttentionMaps(), "queries": sdprobe.every(5)(sdprobe.AttentionQueries())}
    for start in tqdm(range(0, len(scenes), BATCH), unit_scale=BATCH, leave=False):
        prompts = [own.caption for own in scenes[start : start + BATCH]]
        seeds = [start + i for i in range(len(prompts))]
        how = {"steps": steps, "guidance_scale": 5.0, "seed": seeds, "progress": False}
        run = sdprobe.sample(model, prompts, hooks=hooks, **how)
        for image, picture in enumerate(run.images):
            if masks := [own.mask for own in detect(np.asarray(picture)) if thing.fits(own)]:
                yield Drawn(run, image, np.logical_or.reduce(masks))


def learn(model: sdprobe.Model, drawn: Sequence[Drawn], words: str) -> sdprobe.LearnedToken:
    """Learn a token from pictures of several runs, with their own queries: one run of these pictures alone."""
    hooks, prompts = (
        [sdprobe.every(5)(sdprobe.AttentionQueries())],
        [own.run.prompt_of(own.image).text for own in drawn],
    )
    how = {"guidance_scale": 5.0, "seed": [own.run.seed[own.image] for own in drawn], "progress": False}  # type: ignore[index]
    run = sdprobe.sample(model, prompts, hooks=hooks, steps=drawn[0].run.settings.steps, **how)
    return sdprobe.learn_token(model, run, [own.mask for own in drawn], init_word=words, progress=False)


def ious(heats: Sequence[np.ndarray], drawn: Sequence[Drawn], threshold: float) -> np.ndarray:
    """Intersection over union of each map at a threshold."""
    pairs = [(heat > threshold, own.mask) for heat, own in zip(heats, drawn, strict=True)]
    return np.array([(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs])


def measured(
    heat_map: Callable[[Drawn], HeatMap], chosen_on: Sequence[Drawn], held: Sequence[Drawn], at: float | None = None
) -> tuple[float, np.ndarray]:
    """The threshold, as given or the best on other pictures, and each held-out picture's intersection over union."""
    shown = [[_at_64(heat_map(own)) for own in part] for part in (chosen_on, held)]
    best = max(THRESHOLDS, key=lambda t: ious(shown[0], chosen_on, t).mean()) if at is None else at
    return float(best), ious(shown[1], held, best)


def _at_64(heat: HeatMap) -> np.ndarray:
    return heat.resize((64, 64), "bilinear").normalized().numpy()


def figures(
    model: sdprobe.Model, words: str, given: argparse.Namespace
) -> Iterator[tuple[str, float, Estimate, Estimate]]:
    """Every row of one thing: the map, its threshold, the mean, and the mean difference to the plain word by ovam."""
    thing, alone = Thing.of(words), Ovam()
    drawn = [*draw(model, scenes_of(thing)[: given.pictures], thing, given.steps)]
    first, rest = drawn[: given.learn_from], drawn[given.learn_from :]
    parts = rest[: given.chosen_on], rest[given.chosen_on :]
    token = learn(model, first, words)
    learnt = lambda own: token.heat_map(own.run, own.image)  # noqa: E731
    # A texture may stand between colour and shape: then the last word, which the encoder reads after both.
    mean = lambda own: own.run["maps"].heat_map(_last(own, words), image=own.image)  # noqa: E731
    found = {
        "ovam, word alone": measured(lambda own: alone.heat_map(own.run, words, own.image), *parts),
        "mean, word in its prompt": measured(mean, *parts),
        "learnt token": measured(learnt, *parts),
        "learnt token at 0.5": measured(learnt, *parts, at=0.5),
    }
    plain = found["ovam, word alone"][1]
    for name, (threshold, each) in found.items():
        yield f"{words}: {name}", threshold, mean_with_interval(each), mean_with_interval(each - plain)


def _last(own: Drawn, words: str) -> str:
    prompt = own.run.prompt_of(own.image)
    return words if prompt.occurrences(words) else words.split()[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--things", nargs="+", default=["red ring", "ring", "blue star"])
    parser.add_argument("--pictures", type=int, default=100, help="captions that are drawn")
    parser.add_argument("--learn-from", type=int, default=8, help="pictures that the token is learnt from")
    parser.add_argument("--chosen-on", type=int, default=40, help="pictures that thresholds are chosen on")
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = sdprobe.load()
    print("| map | threshold | mean IoU | minus ovam of the word | pictures |\n|---|---|---|---|---|")
    for words in given.things:
        for name, threshold, found, more in figures(model, words, given):
            print(f"| {name} | {threshold:.3f} | {found} | {more} | {found.cases} |", flush=True)


if __name__ == "__main__":
    main()
