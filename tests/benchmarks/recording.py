"""The memory of a run while it is recorded, step by step: in memory it grows, on disk it stays flat.

    python tests/benchmarks/recording.py [--quick]

Each column is a process of its own: its resident size over that at the end of the first step.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

import torch
from measure import apart, one_thread, table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import sdprobe
from tests.tiny import stable_diffusion

KEPT = ("latents", "noise_pred", "denoised")
WAYS = ("nothing", "in memory", "on disk")
MEGA = 1e6


class Resident(sdprobe.Observer):
    """The resident size of the process after every step."""

    def start(self, run: sdprobe.Run) -> None:
        self.sizes: list[float] = []

    def noise_pred(self, x: torch.Tensor, step: sdprobe.Step) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.sizes.append(pages * resource.getpagesize() / MEGA)


def measure(way: str, steps: int, images: int) -> dict[str, object]:
    """The curve of one way of recording, and what was written in MB."""
    torch.set_num_threads(1)
    resident = Resident()
    with tempfile.TemporaryDirectory() as folder:
        recorders = {
            "nothing": [],
            "in memory": [sdprobe.LatentRecorder(keep=KEPT)],
            "on disk": [sdprobe.LatentRecorder(keep=KEPT, folder=Path(folder) / "run")],
        }[way]
        run = sdprobe.sample(
            sdprobe.load(stable_diffusion()),
            "a red circle",
            hooks=[*recorders, resident],
            steps=steps,
            guidance_scale=1.0,
            seed=0,
            images_per_prompt=images,
            progress=False,
        )
        written = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    return {"curve": run[resident].sizes, "written": written / MEGA}


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="10 steps of 64 images in place of 50 of 512")
    asked.add_argument("--one", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    steps, images = (10, 64) if options.quick else (50, 512)
    each = len(KEPT) * images * 4 * 8 * 8 * 4 / MEGA
    print(f"{one_thread()}; tiny U-Net, {images} images at once: {each:.2f} MB to record at each of {steps} steps")
    found = {way: apart(__file__, way, steps, images) for way in WAYS}
    curves = {way: [float(size) for size in own["curve"]] for way, own in found.items()}  # type: ignore[attr-defined]
    shown = sorted({0, *range(steps // 10 - 1, steps, steps // 10), steps - 1})
    rows = [[step + 1, *(f"{curves[way][step] - curves[way][0]:+.1f}" for way in WAYS)] for step in shown]
    print(table(["after step", *(f"{way}, MB" for way in WAYS)], rows))
    print(f"written: {found['on disk']['written']:.1f} MB")


if __name__ == "__main__":
    main()
