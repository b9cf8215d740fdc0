"""What the maps of all words cost after a run, with the sites of SDXL at 1024²: 10 of 64² and 60 of 32².

    python tests/benchmarks/final_maps.py [--quick]

Each line is a process of its own, in which the first call is measured apart: it finds nothing in the caches.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from measure import apart, cpu_seconds, one_thread, spread, table
from models import SDXL_THIN

import sdprobe

WORDS = (
    "a small red circle left of the large blue square above green star and "
    "yellow ring on white triangle with background"
)
MEGA = 1e6
TARGET = 50  # milliseconds
WAYS: list[tuple[dict[str, Any], str]] = [
    ({}, "mean"),
    ({"keep": ["layer", "head"]}, "mean"),
    ({"keep": ["layer", "head"], "dtype": "float16"}, "mean"),
    ({"keep": ["layer", "head"]}, "daam"),
]


def measure(config: dict[str, Any], method: str, repeats: int) -> dict[str, Any]:
    """Run one step, and tell what was held and the milliseconds for the maps of all words."""
    torch.set_num_threads(1)
    maps, model = sdprobe.AttentionMaps(**config), SDXL_THIN.model()
    run = sdprobe.sample(model, WORDS, hooks=[maps], steps=1, guidance_scale=1.0, seed=0, progress=False)
    own = run[maps]

    def once() -> float:
        return 1e3 * cpu_seconds(lambda: own.heat_maps(method=method))

    first = once()
    return {
        "held": own.held_bytes,
        "words": len(own.heat_maps(method=method)),
        "first": first,
        "ms": [once() for _ in range(repeats)],
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="three calls in place of nine")
    asked.add_argument("--one", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    print(f"{one_thread()}; {SDXL_THIN.name}, 1024²: 70 sites, 10 and 20 heads, 77 tokens; target: ≤ {TARGET} ms")
    rows = []
    for config, method in WAYS:
        found = apart(__file__, config, method, 3 if options.quick else 9)
        said = ", ".join(f"{name}={value!r}" for name, value in config.items())
        held, first = f"{found['held'] / MEGA:.1f}", f"{found['first']:.1f}"
        rows.append([f"AttentionMaps({said})", method, held, found["words"], first, spread(found["ms"], ".1f")])
    print(table(["recording", "method", "held, MB", "words", "first call, CPU ms", "further calls, CPU ms"], rows))


if __name__ == "__main__":
    main()
