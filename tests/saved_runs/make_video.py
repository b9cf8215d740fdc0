"""Make the run of videos with every observer that is kept for ever: ``python -m tests.saved_runs.make_video``.

As the run that ``make`` keeps, it is never made again once a version is released with it. A new observer gets a folder
of its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import sdprobe
from sdprobe.attributions import Gradient, Integrated, OutputSpace
from sdprobe.core.run import Run
from sdprobe.runs.saved.run_folder import SCHEMA
from tests.tiny_models.wan import wan

HERE = Path(__file__).parent
NAME = f"schema-{SCHEMA}-video"
VIDEOS = range(2)
FEED_FORWARD, ATTENTION = "blocks.0.ffn", "blocks.1.attn1"


def tensors_of(run: Run) -> dict[str, Tensor]:
    """What each observer answers in tensors. Their names begin with its own."""
    maps, places, matrices = run["maps"], run["places"], run["matrices"]
    found = {"run.latents": run.latents}
    found |= {
        f"maps: {how}, {i}": maps.heat_map("circle", image=i, method=how).values
        for how in ("mean", "daam")
        for i in VIDEOS
    }
    found |= {"maps: of a step": maps.heat_map("red", step=1).values}
    found |= {f"places: at a place, {i}": places.heat_map((1, 2, 3), i).values for i in VIDEOS}
    found |= {f"matrices: image to image, {i}": matrices.matrix("image", "image", image=i).values for i in VIDEOS}
    found |= {f"queries: {own.layer}, {i}": own.query for i in VIDEOS for own in run["queries"].sites(i)}
    found |= {f"gradients: {kind}": run["gradients"].values("circle", kind) for kind in ("norm", "product", "path")}
    found |= {"gradients: total": torch.tensor(run["gradients"].total("circle"))}
    found |= {f"concepts: {kind}": run["concepts"].values("background", kind) for kind in ("share", "score")}
    found |= {"attention: of a step": run["attention"].at(1, ATTENTION)}
    found |= {"activations: all": run["activations"][FEED_FORWARD]}
    found |= {f"latents: {name}": run["latents"].at(1)[name] for name in ("latents", "denoised")}
    found |= {"latents: final": run["latents"].final, "of the second: final": run["of the second"].final}
    found |= {f"statistics: {name}": torch.stack(run["statistics"][name]) for name in ("latents", "denoised")}
    found |= {"statistics: cosine": run["statistics"].cosine}
    found |= {f"checkpoints: {i}": state.latents for i, state in run["checkpoints"].states.items()}
    found |= {f"methods: {method!r}": method.heat_map(run, "circle").values for method in METHODS}
    return found


METHODS = (Gradient(), Integrated(baseline=None), OutputSpace())


def answers_of(run: Run) -> dict[str, Any]:
    """What the run and each observer answer in texts and numbers."""
    preview, recorder = run["preview"], run["attention"].record
    states = run["checkpoints"].states.items()
    return {
        "run": repr(run),
        "settings": repr(run.settings),
        "model": run.model_name,
        "coverage": str(run.coverage),
        "pixels": [[list(frame.tobytes()[:12]) for frame in video] for video in run.videos],
        "maps": list(run["maps"].heat_maps()),
        "places": [list(grid) for grid in run["places"].sums],
        "matrices": repr(run["matrices"].matrix("image", "image")),
        "queries": [list(key) for key in run["queries"].queries],
        "gradients": run["gradients"].names,
        "concepts": run["concepts"].names,
        "attention": [[str(key), list(recorder.axes_of(key))] for key in recorder.keys],
        "activations": list(run["activations"].axes(FEED_FORWARD)),
        "latents": run["latents"].indices,
        "statistics": run["statistics"].indices,
        "preview": [[list(p.tobytes()[:12]) for p in preview.of_image(own, 1)] for own in preview["denoised"]],
        "checkpoints": [[index, str(state.generator.device)] for index, state in states],
        "progress": run["progress"].done,
    }


def made() -> Run:
    """The run."""
    hooks = {
        "maps": sdprobe.AttentionMaps(["red", "circle"], keep="step"),
        "places": sdprobe.SelfAttentionMaps(),
        "matrices": sdprobe.AttentionMatrices([("image", "image")], modules=["blocks.1.*"]),
        "queries": sdprobe.AttentionQueries(modules=["blocks.1.*"]),
        "gradients": sdprobe.WordGradients(["circle"], path=2, baseline=None),
        "concepts": sdprobe.ConceptOutputs(["circle", "background"]),
        "attention": sdprobe.AttentionRecorder(ATTENTION, kinds="self", steps=1, dtype="float16"),
        "activations": sdprobe.Activations(FEED_FORWARD, rows="cond", reduce="mean"),
        "latents": sdprobe.LatentRecorder(keep=("latents", "denoised")),
        "of the second": sdprobe.only(sdprobe.LatentRecorder(), rows=[1]),
        "statistics": sdprobe.Statistics(),
        "preview": sdprobe.Preview(keep=["denoised"]),
        "checkpoints": sdprobe.only(sdprobe.Checkpoints(), steps=[1]),
        "progress": sdprobe.Progress(),
    }
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": 4, "images_per_prompt": 2}
    size = {"frames": 3, "height": 16, "width": 16}
    prompts = {"prompt": "a red circle", "negative_prompt": "blue"}
    return sdprobe.sample(wan(), **prompts, hooks=hooks, **settings, **size, progress=False)


if __name__ == "__main__":
    folder, run = HERE / NAME, made()
    shutil.rmtree(folder, ignore_errors=True)
    run.save(folder)
    save_file({name: x.contiguous() for name, x in tensors_of(run).items()}, HERE / f"{NAME}.safetensors")
    (HERE / f"{NAME}.json").write_text(json.dumps(answers_of(run)) + "\n")
