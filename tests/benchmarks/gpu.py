"""What looking costs on a GPU, in time and memory, beside the stock pipeline and attention-map-diffusers.

    python tests/benchmarks/gpu.py [--only NAME] [--quick] [--out FILE] [--tiny]

Each way to run is timed in pairs with the stock pipeline, until the GPU has finished; the order in a pair alternates.
The pairs of the stock pipeline with itself say what a ratio is worth. Peak memory is that of a run of its own. Pictures
and final latents are held against the stock pipeline's, bit for bit. Without a CUDA device nothing is measured; with
``--tiny`` the script runs on the CPU, on tiny models of the same layout, to see that it works.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is made here

import diffusers
import torch
import transformers
from full_size import MODELS, FullSize
from measure import in_pairs, spread, table
from synchronisations import counted, synchronisations
from ways import PEER, WORDS, Outcome, Subject, Way

import sdprobe
from sdprobe.files.atomic_file import write_atomically

HELD_MB, MAPS_MS = 10, 50
LEGEND = (
    "A step's time is that of the run over its steps. Ratios are medians (least to greatest) of {pairs} pairs. The "
    "peak is that of the stock pipeline over its weights, then what each way adds to it. Targets beside the ratios: "
    f"held ≤ {HELD_MB} MB, maps of all words ≤ {MAPS_MS} ms, no synchronisation of sdprobe's own."
)
NOTHING = "no CUDA device here: nothing was measured"
HEAD = ("", "ms per step", "over the stock pipeline", "target", "peak, MiB", "held, MB", "equal to the stock pipeline")
MEBI, MEGA = 2**20, 1e6


class Table:
    """What was measured of each model, as Markdown."""

    def __init__(self, device: torch.device, pairs: int, out: Path | None) -> None:
        self.device, self.pairs, self.out = device, pairs, out
        self.sections = [f"{described(device)}. {LEGEND.format(pairs=pairs)}"]
        self.failed: list[str] = []
        print(self.sections[0], flush=True)

    def add(self, model: FullSize, tiny: bool) -> None:
        """Measure one model, print what was found, and write all that there is by now to the file."""
        try:
            section = self._measured(model, tiny)
        except Exception as error:
            section = f"**{model.name}**: {self._said(model.name, error)}"
        self.sections.append(section)
        print(f"\n{section}", flush=True)
        if self.out is not None:
            with write_atomically(self.out) as beside:
                beside.write_text("\n\n".join(self.sections) + "\n", encoding="utf-8")

    def _measured(self, model: FullSize, tiny: bool) -> str:
        subject = Subject(model, self.device, tiny)
        plain, _ = peak(subject.stock, self.device)
        first, *others = subject.ways()
        rows = [self._row(subject, first, None), *(self._row(subject, way, plain) for way in others)]
        return "\n\n".join([f"**{subject.title}**", table(HEAD, rows), self._after(subject)])

    def _row(self, subject: Subject, way: Way, plain: int | None) -> list[str]:
        """One line of the table; the peak is told over the plain one, where there is one."""
        what = f"{subject.name}: {way.name}"
        print(what, file=sys.stderr, flush=True)
        try:
            way.run()  # what is compiled or chosen once
            most, outcome = peak(way.run, self.device)
            times = in_pairs(subject.stock, way.run, self.pairs, self._seconds)
        except Exception as error:
            return [way.name, self._said(what, error), *[""] * 5]
        step = 1e3 * statistics.median(cost for _, cost in times) / subject.steps
        return [
            way.name,
            f"{step:.2f}",
            spread([cost / base for base, cost in times]),
            "" if way.target is None else f"≤ {way.target:.2f}",
            _mebi(most, plain),
            "" if outcome.held is None else f"{outcome.held / MEGA:.2f}",
            subject.equal(outcome),
        ]

    def _after(self, subject: Subject) -> str:
        """What the final maps cost, and how often the GPU is waited for."""
        try:
            said = self._final_maps(subject)
            return f"{said}\n{_waits(subject)}" if self.device.type == "cuda" else said
        except Exception as error:
            return self._said(f"{subject.name}: final maps and synchronisations", error)

    def _final_maps(self, subject: Subject) -> str:
        maps = sdprobe.AttentionMaps()
        run = subject.sample(maps)
        one = self._milliseconds(lambda: run[maps].heat_map(WORDS[0]))
        every = self._milliseconds(run[maps].heat_maps)
        return f"One final map: {one} ms; those of all {len(run[maps].heat_maps())} words: {every} ms."

    def _seconds(self, work: Callable[[], object]) -> float:
        """The time of one call, until the GPU has finished."""
        self._finish()
        before = time.perf_counter()
        work()
        self._finish()
        return time.perf_counter() - before

    def _milliseconds(self, work: Callable[[], object]) -> str:
        return spread([1e3 * self._seconds(work) for _ in range(2 + self.pairs)], ".1f")

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _said(self, what: str, error: Exception) -> str:
        """What a table says of an error. Too little memory is a finding; any other error is a failure of the script."""
        if isinstance(error, torch.OutOfMemoryError):
            return "does not fit into the GPU's memory"
        traceback.print_exception(error)
        self.failed.append(what)
        return f"failed: {type(error).__name__}"


def peak(work: Callable[[], Outcome], device: torch.device) -> tuple[int | None, Outcome]:
    """The greatest number of bytes in use during a call, over those before it; None on a CPU. And what it returned."""
    if device.type != "cuda":
        return None, work()
    clear(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outcome = work()
    return torch.cuda.max_memory_allocated() - before, outcome


def clear(device: torch.device) -> None:
    """Free what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def described(device: torch.device) -> str:
    """The device, the driver and the versions."""
    named = [f"{library.__name__} {library.__version__}" for library in (torch, diffusers, sdprobe)]
    if find_spec(PEER) is not None:
        named.append(f"attention-map-diffusers {version(PEER)}")
    versions = ", ".join(named)
    if device.type != "cuda":
        return f"Tiny models on the CPU, whose figures say nothing of a GPU; {versions}"
    card = torch.cuda.get_device_properties(device)
    return f"{card.name}, {card.total_memory / 2**30:.0f} GiB, driver {_driver()}; {versions}"


def main(arguments: Sequence[str] | None = None) -> int:
    names = [model.name for model in MODELS]
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--only", choices=names, help="this model alone")
    asked.add_argument("--quick", action="store_true", help="2 pairs in place of 5")
    asked.add_argument("--out", type=Path, help="a file for the tables, as Markdown")
    asked.add_argument("--tiny", action="store_true", help="tiny models on the CPU: whether the script works")
    options = asked.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print(NOTHING)
        return 0
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
    device = torch.device("cpu" if options.tiny else "cuda")
    begun = time.perf_counter()
    tables = Table(device, 2 if options.quick else 5, options.out)
    for model in MODELS:
        if options.only in (None, model.name):
            tables.add(model, options.tiny)
            clear(device)
    print(f"\nmeasured in {time.perf_counter() - begun:.0f} s")
    if tables.failed:
        print(f"failed: {'; '.join(tables.failed)}", file=sys.stderr)
    return 1 if tables.failed else 0


def _mebi(most: int | None, plain: int | None) -> str:
    """A peak, or how much more than the plain one it is; nothing where it is not known."""
    if most is None:
        return ""
    return f"{most / MEBI:.1f}" if plain is None else f"{(most - plain) / MEBI:+.1f}"


def _waits(subject: Subject) -> str:
    """How often the GPU is waited for, and the lines of sdprobe that do it."""
    maps = sdprobe.AttentionMaps()
    ways = {"the stock pipeline": subject.stock, "sample": subject.sample, "with maps": lambda: subject.sample(maps)}
    said = []
    for name, run in ways.items():
        places = synchronisations(run)
        own = [place for place in places if place.is_own]
        said.append(f"{name} {len(places)}" + (f", {len(own)} of them sdprobe's own ({counted(own)})" if own else ""))
    return f"Synchronisations: {'; '.join(said)}."


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()


if __name__ == "__main__":
    sys.exit(main())
