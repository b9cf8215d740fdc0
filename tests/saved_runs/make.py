"""Make the run of this schema that is kept for ever, and what it answers: ``python -m tests.saved_runs.make``.

Once a version is released, its folder is never made again: it shows that what was saved with that version can be read.
A new schema gets a folder of its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, only
from sdprobe.core.run import Run
from sdprobe.runs.saved.run_folder import SCHEMA
from tests.tiny import stable_diffusion

HERE = Path(__file__).parent
WORDS = ("red", "circle")


def tensors_of(run: Run) -> dict[str, Tensor]:
    """What a run answers in tensors."""
    maps, latents, second = run["maps"], run["latents"], run["of the second"]
    found = {f"heat map of {word}": maps.heat_map(word).values for word in WORDS}
    found |= {f"daam of {word}": maps.heat_map(word, image=1, method="daam").values for word in WORDS}
    found |= {f"heat map at step {i}": maps.heat_map("circle", step=i).values for i in range(2)}
    found |= {f"latents at {i}": latents.at(i)["latents"] for i in latents.indices}
    found |= {f"denoised at {i}": latents.at(i)["denoised"] for i in latents.indices}
    return found | {"final": latents.final, "of the second": second["latents"], "run.latents": run.latents}


def answers_of(run: Run) -> dict[str, Any]:
    """What a run answers in texts and numbers."""
    return {
        "run": repr(run),
        "settings": repr(run.settings),
        "model": run.model_name,
        "roles": list(run.roles),
        "coverage": str(run.coverage),
        "words": {word: run.prompts[0].positions(word) for word in WORDS},
        "negative prompts": [prompt.text for prompt in run.negative_prompts],
        "pixels": [list(image.tobytes()[:48]) for image in run.images],
        "heat maps": list(run["maps"].heat_maps()),
        "indices": run["latents"].indices,
    }


def made() -> Run:
    """The run."""
    hooks = {
        "maps": AttentionMaps(words=WORDS, keep=("step", "layer", "head")),
        "latents": LatentRecorder(keep=("latents", "denoised")),
        "of the second": only(LatentRecorder(), rows=[1]),
    }
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": [4, 5], "images_per_prompt": 2, "height": 16, "width": 16}
    prompts = {"prompt": "a red circle", "negative_prompt": "blue"}
    return sdprobe.sample(stable_diffusion(), **prompts, hooks=hooks, **settings, progress=False)


if __name__ == "__main__":
    folder, run = HERE / f"schema-{SCHEMA}", made()
    shutil.rmtree(folder, ignore_errors=True)
    run.save(folder)
    save_file({name: x.contiguous() for name, x in tensors_of(run).items()}, HERE / f"schema-{SCHEMA}.safetensors")
    (HERE / f"schema-{SCHEMA}.json").write_text(json.dumps(answers_of(run), indent=1) + "\n")
