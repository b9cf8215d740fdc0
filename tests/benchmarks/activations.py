"""The memory of a run while activations of SDXL's size are recorded, and while a data set reads them again.

    python tests/benchmarks/activations.py [--quick]

Each column is a process of its own: its resident size over that at the end of the first step. The run is that of a tiny
U-Net, and the hook is given tensors of the size that the blocks ``down_blocks.2.attentions.1``, ``mid_block`` and
``up_blocks.0.attentions.{0,1}`` of SDXL give at 1024²: 2 rows of 1280 channels, 32×32 places each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from measure import apart, one_thread, table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import sdprobe
from sdprobe.observe.activation_dataset import ActivationDataset
from sdprobe.observe.activations import Activations
from tests.tiny import stable_diffusion

BLOCKS = ("down_blocks.0.attentions.0", "mid_block", "up_blocks.0.resnets.0", "up_blocks.0.resnets.1")  # stand for them
SHAPE = (2, 1280, 32, 32)
WAYS = ("nothing", "in memory", "on disk")
MEGA = 1e6


def resident() -> float:
    """The resident size of this process, without what is only mapped from files, in MB."""
    pages, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (pages - shared) * resource.getpagesize() / MEGA


class Enlarged(Activations):
    """Records a tensor of SDXL's size in the place of each."""

    def start(self, run: sdprobe.Run) -> None:
        super().start(run)
        self.large = torch.randn(SHAPE).to(torch.float16)

    def activation(self, x: torch.Tensor, site: sdprobe.Site) -> None:
        super().activation(self.large, replace(site, grid=SHAPE[2:]))


class Resident(sdprobe.Observer):
    """The resident size of the process after every step."""

    def start(self, run: sdprobe.Run) -> None:
        self.sizes: list[float] = []

    def noise_pred(self, x: torch.Tensor, step: sdprobe.Step) -> None:
        self.sizes.append(resident())


def measure(way: str, steps: int, folder: str) -> dict[str, object]:
    """The curve of one way of recording, what was written in MB, and the seconds for it."""
    torch.set_num_threads(1)
    sizes = Resident()
    hooks = {"nothing": [], "in memory": [Enlarged(BLOCKS)], "on disk": [Enlarged(BLOCKS, to=Path(folder) / "run")]}
    began = time.perf_counter()
    run = sdprobe.sample(
        sdprobe.load(stable_diffusion()),
        "a red circle",
        hooks=[*hooks[way], sizes],
        steps=steps,
        guidance_scale=5.0,
        seed=0,
        progress=False,
    )
    seconds = time.perf_counter() - began
    written = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    return {"curve": run[sizes].sizes, "written": written / MEGA, "seconds": seconds}


def read(chunk: int, folder: str) -> dict[str, object]:
    """The greatest resident size, over that before, of reading one epoch of a data set, and the vectors in a second."""
    torch.set_num_threads(1)
    dataset = ActivationDataset([Path(folder) / "run"], "mid_block", chunk=chunk, batch=4096)
    before, most, began = resident(), 0.0, time.perf_counter()
    count = 0
    for batch in dataset:
        count += len(batch)
        most = max(most, resident() - before)
    assert count == dataset.count
    held = chunk * dataset.width * 2 / MEGA
    return {"most": most, "held": held, "count": count, "rate": count / (time.perf_counter() - began)}


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="10 steps in place of 50")
    asked.add_argument("--one", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one:
        kind, *given = json.loads(options.one)
        print(json.dumps((measure if kind == "measure" else read)(*given)))
        return
    # So that the memory of a freed tensor goes back to the system, and does not stay in the allocator of the C library.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    steps = 10 if options.quick else 50
    each = len(BLOCKS) * torch.Size(SHAPE).numel() * 2 / MEGA
    print(f"{one_thread()}; {len(BLOCKS)} tensors {list(SHAPE)} in fp16, {each:.1f} MB at each of {steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        found = {way: apart(__file__, "measure", way, steps, folder) for way in WAYS}
        curves = {way: [float(size) for size in own["curve"]] for way, own in found.items()}
        shown = sorted({0, *range(steps // 10 - 1, steps, steps // 10), steps - 1})
        rows = [[step + 1, *(f"{curves[way][step] - curves[way][0]:+.1f}" for way in WAYS)] for step in shown]
        print(table(["after step", *(f"{way}, MB" for way in WAYS)], rows))
        print(", ".join(f"{way} {found[way]['seconds']:.1f} s" for way in WAYS))
        print(f"written: {found['on disk']['written']:.1f} MB")
        rows = []
        for chunk in (2**12, 2**14, 2**16):
            own = apart(__file__, "read", chunk, folder)
            rows.append([chunk, own["count"], f"{own['held']:.1f}", f"{own['most']:.1f}", f"{own['rate']:.0f}"])
        print(table(["chunk", "vectors", "chunk, MB", "most resident, MB", "vectors/s"], rows))


if __name__ == "__main__":
    main()
