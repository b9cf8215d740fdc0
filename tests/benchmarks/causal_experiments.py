"""What the embedded model's words, sites and maps are needed for: the tables of the page on experiments.

    python tests/benchmarks/causal_experiments.py

Knock-out over 100 cases, deletion over 12, one site shown another prompt over 12 seeds; each in less than five minutes
on two cores. Seconds are of the wall, with the threads that torch takes.
"""

from __future__ import annotations

import time
from dataclasses import replace

import sdprobe
from sdprobe import experiments
from sdprobe.experiments.measures import ColourShown, Detected, PictureChange, ShapeShown

SETTINGS = {"steps": 8, "guidance_scale": 5.0, "progress": False}


def knock_out(model):
    over = [replace(case, prompt=f"a photo of {case.prompt}") for case in experiments.shape_cases(100)]
    words = {"colour": "{colour}", "shape": "{shape}", "both": ["{colour}", "{shape}"]}
    words |= {"padding and end": ["<pad>", "<end>"], "all of these": ["{colour}", "{shape}", "<pad>", "<end>"]}
    measures = [ColourShown("{colour}"), ShapeShown("{shape}")]
    print(experiments.knock_out(model, over, words, measures=measures, **SETTINGS).summary())


def deletion(model):
    change = {"change of the object": PictureChange(within=Detected("{colour} {shape}"))}
    own, other = "{colour} {shape}", "{other_colour} {other_shape}"
    over = experiments.shape_cases(12, objects=2)
    found = experiments.deletion(model, over, own, other=other, measures=change, **SETTINGS)
    for order, area in found.areas("change of the object").items():
        shares, means = found.curve(order, "change of the object")
        print(f"{order}: {means[shares.index(0.1)]} at a tenth; mean height of the curve {area.height}")


def context(model):
    measures = {"blue": ColourShown("blue")}
    found = experiments.context_sweep(model, "a red circle", "a blue circle", measures, seeds=range(12), **SETTINGS)
    print(found.effect(), found.control(), sep="\n")


if __name__ == "__main__":
    embedded = sdprobe.load()
    for run in (knock_out, deletion, context):
        print(f"\n{run.__name__}")
        begun = time.perf_counter()
        run(embedded)
        print(f"{time.perf_counter() - begun:.0f} s")
