"""What recording every word holds, with the sites of SD 1.5 at 512², and what the final maps cost.

    python tests/benchmarks/memory.py [--quick]

Each line is a process of its own: the held bytes are the recording's, the peak is the process's greatest resident size.
"""

from __future__ import annotations

import argparse
import json
import resource

import torch
from measure import apart, cpu_seconds, one_thread, spread, table
from models import PROMPT, SD15_THIN

import sdprobe

LONG = " ".join(["a red circle left of a blue square above a green star"] * 6)  # as many words as 77 tokens hold
MEGA = 1e6


def measure(prompt: str, steps: int, captured: bool) -> dict[str, object]:
    """Run once, and tell what was held, the peak, and the milliseconds for the maps of all words."""
    torch.set_num_threads(1)
    maps = sdprobe.AttentionMaps()
    hooks = [maps] if captured else []
    model = SD15_THIN.model()
    run = sdprobe.sample(model, prompt, hooks=hooks, steps=steps, seed=0, height=512, width=512, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found: dict[str, object] = {"peak": peak, "held": 0, "words": 0, "map": []}
    if captured:
        found["held"] = run[maps].held_bytes
        found["words"] = len(run[maps].heat_maps())
        found["map"] = [1e3 * cpu_seconds(run[maps].heat_maps) for _ in range(7)]
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="2 and 4 steps in place of 10 and 50")
    asked.add_argument("--one", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    print(f"{one_thread()}; {SD15_THIN.name}, 512²: 16 sites, 8 heads, 77 tokens; targets: held ≤ 10 MB, maps ≤ 50 ms")
    rows = []
    for steps in (2, 4) if options.quick else (10, 50):
        plain, captured = apart(__file__, PROMPT, steps, False), apart(__file__, PROMPT, steps, True)
        rows.append(_row(steps, captured, plain))
    head = ["steps", "held, MB", "peak, MB", "peak over a plain run, MB", "words", "maps of all words, CPU ms"]
    rows.append(_row(1, apart(__file__, LONG, 1, True), apart(__file__, LONG, 1, False)))
    print(table(head, rows))


def _row(steps: int, captured: dict[str, object], plain: dict[str, object]) -> list[object]:
    held, peak, base = (float(str(value)) / MEGA for value in (captured["held"], captured["peak"], plain["peak"]))
    maps = captured["map"]
    assert isinstance(maps, list)
    return [steps, f"{held:.2f}", f"{peak:.0f}", f"{peak - base:+.0f}", captured["words"], spread(maps, ".1f")]


if __name__ == "__main__":
    main()
