"""How far the maps of heads and dependents overlap in the embedded model, over 100 prompts of its own grammar.

    python tests/benchmarks/head_dependent_overlaps.py [figure.png]

The prompts are such as "a red circle left of a blue square". They are parsed by the few rules of their grammar, in the
names that spaCy's English models use.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import sdprobe
from sdprobe.attributions import grammar, overlaps
from sdprobe.experiments import shape_cases
from sdprobe.shapes import COLOURS, SHAPES

CASES, BATCH = 100, 20
SETTINGS = {"steps": 8, "guidance_scale": 5.0, "progress": False}
METHODS = ("mean", "daam", ("self_refined", {}))


def parse(text):
    """Words, parts of speech and dependencies of two coloured shapes and their relation."""
    words, at = [], 0
    for own in text.split():
        words.append(SimpleNamespace(text=own, idx=text.index(own, at), pos_="", dep_="", head=None))
        at = words[-1].idx + len(own)
    first, second = (word for word in words if word.text in SHAPES)
    first.pos_, first.dep_, first.head = "NOUN", "ROOT", first
    before = words[words.index(second) - 3]  # "of", "above" or "below", before the second "a"
    second.pos_, second.dep_, second.head = "NOUN", "pobj", before
    for word in words:
        noun = first if word.idx < first.idx else second
        if word.text in ("a", "an"):
            word.pos_, word.dep_, word.head = "DET", "det", noun
        elif word.text in COLOURS:
            word.pos_, word.dep_, word.head = "ADJ", "amod", noun
        elif word.text in ("left", "right"):
            word.pos_, word.dep_, word.head = "ADV", "advmod", first
        elif word.pos_ == "":
            word.pos_, word.dep_ = "ADP", "prep"
            word.head = words[words.index(word) - 1] if word.text == "of" else first
    return words


def measured(model):
    """The grammar of each picture, by each method."""
    found = {str(method): [] for method in METHODS}
    cases = shape_cases(CASES, objects=2)
    for first in range(0, CASES, BATCH):
        own = cases[first : first + BATCH]
        hooks = [sdprobe.AttentionMaps(keep=("layer", "head")), sdprobe.SelfAttentionMaps()]
        prompts, seeds = [case.prompt for case in own], [case.seed for case in own]
        run = sdprobe.sample(model, prompts, seed=seeds, hooks=hooks, **SETTINGS)
        for method in METHODS:
            found[str(method)] += [grammar(run, parse, image, method) for image in range(len(own))]
    return found


if __name__ == "__main__":
    begun = time.perf_counter()
    for name, grammars in measured(sdprobe.load()).items():
        table = overlaps(grammars)
        print(f"\n{name}\n{table}")
        if name == "mean":
            print(grammars[0])
            for path in sys.argv[1:]:
                table.plot("Heads and dependents, embedded model").savefig(path, dpi=150)
    print(f"{time.perf_counter() - begun:.0f} s")
