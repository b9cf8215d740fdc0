"""Every method of attribution beside the plain mean, held against rendered truth: the table of the page on them.

    python tests/benchmarks/attributions.py               prints the table
    python tests/benchmarks/attributions.py --write       and writes it into the page and the model card
    python tests/benchmarks/attributions.py --model shapes-joint

A colour word's map is held against the object of this colour and shape that the detector sees. The chosen heads are
chosen on the cases that thresholds are chosen on. With --folder the sweep goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rendered_truth import card_of, write

import sdprobe
from sdprobe import attributions, experiments
from sdprobe.attributions.evaluation import Evaluation
from sdprobe.experiments.heads_of_model import heads_of

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "attributions.md"
MARKS = {
    None: ("<!-- attributions: begin -->", "<!-- attributions: end -->"),
    "shapes-joint": ("<!-- attributions, joint: begin -->", "<!-- attributions, joint: end -->"),
}
CHOOSING = 0.2
CONCEPTS = {"colour": [*sdprobe.shapes.COLOURS], "shape": [*sdprobe.shapes.SHAPES]}


def chosen_heads(model, cases, settings) -> dict[str, attributions.Heads]:
    """The head whose map fits best on these cases, and the three that look most at colours."""
    single = {head.name: attributions.Heads([(head.module, head.number)]) for head in heads_of(model)}
    found = attributions.evaluate_attributions(model, cases, single, choosing=0.5, deletion=0, timing=0, **settings)
    best = next(name for name in found.ranked() if name in single)
    print(f"the best head on {len(cases)} other cases: {best}, IoU {found[best, 'IoU'].mean}")
    heads = {"best head": single[best]}
    if model.attention_kind(model.modules[heads_of(model)[0].module]) == "cross":
        votes = experiments.head_relevance(model, CONCEPTS, cases, **settings)
        heads["three heads for colours"] = attributions.Heads(votes.ranked("colour")[:3])
    return heads


def methods_for(model, cases, settings) -> dict[str, object]:
    """Every registered method, with further arguments where these are worth a line."""
    found: dict[str, object] = {name: name for name in attributions.methods() if name != "heads"}
    found["self_refined twice"] = ("self_refined", {"power": 2})
    found["ovam in a sentence"] = ("ovam", {"context": "a {} shape"})
    found["integrated"] = ("integrated", {"points": 4})  # as many as are worth their time
    return found | chosen_heads(model, cases, settings)


def evaluated(name: str | None, count: int, settings, folder: Path | None, quick: bool) -> Evaluation:
    """Evaluate on so many cases of two objects, in two processes."""
    model = sdprobe.load(name)
    cases = experiments.shape_cases(count, objects=2)
    methods = methods_for(model, cases[: round(CHOOSING * count)], settings)
    more = {}
    if quick:
        del methods["rise"]
        more = {"deletion": 0, "timing": 0}
    load = partial(sdprobe.load, name)
    spawned = get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawned, initializer=torch.set_num_threads, initargs=(1,)) as two:
        found = attributions.evaluate_attributions(
            load, cases, methods, choosing=CHOOSING, executor=two, folder=folder, **more, **settings
        )
    return found


def told(found: Evaluation, settings) -> str:
    """The table with the line above it."""
    deletion = f"; deletion on {len(found.curves.cases)} pictures" if found.curves else ""
    lines = [
        f"{found.objects} objects in {len(found.result.cases) - found.chosen_on} pictures of two, {settings['steps']} "
        f"steps, guidance {settings['guidance_scale']:g}; thresholds and heads chosen on {found.chosen_on} other "
        f"pictures{deletion}.",
        "",
        found.to_markdown(),
    ]
    lines += ["", *(f"{name} cannot: {why}" for name, why in found.refused.items())] if found.refused else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["shapes-joint"], help="default: the embedded model")
    parser.add_argument("--cases", type=int, default=140)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="without occlusion, deletion curves and costs")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"steps": given.steps, "guidance_scale": 5.0, "progress": True}
    begun = time.perf_counter()
    found = evaluated(given.model, given.cases, settings, given.folder, given.quick)
    printed = told(found, settings)
    print(printed, f"\n{time.perf_counter() - begun:.0f} s")
    if given.figure:
        found.plot().savefig(given.figure, dpi=110)
    if given.write:
        write(card_of(given.model), printed, MARKS[given.model])
        write(PAGE, printed, MARKS[given.model])


if __name__ == "__main__":
    main()
