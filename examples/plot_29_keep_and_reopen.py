"""
# Keep a run and open it again

A run that is saved answers later as it does now: its images, the heat map of any word, every recorded step, without the
model and on any machine. This page saves runs, opens them in another process, draws a figure from a folder, continues a
run where it was left, and looks through many.
"""

# %%
# ## Save
#
# Hooks may be given names of one's own. A run asks for its records by them, and so does the saved run.

import subprocess
import sys
import tempfile
from pathlib import Path

import sdprobe
from sdprobe import AttentionMaps, Checkpoints, LatentRecorder, Preview, Statistics, plot, sample

model = sdprobe.load()
hooks = {
    "maps": AttentionMaps(keep=("step",)),
    "latents": LatentRecorder(every=5, keep=("latents", "denoised")),
    "statistics": Statistics(),
    "preview": Preview(),
    "checkpoints": Checkpoints(),
}
prompt = "a red circle left of a blue square"
run = sample(model, prompt, hooks=hooks, steps=30, guidance_scale=5.0, seed=4, progress=False)

home = Path(tempfile.mkdtemp())
folder = run.save(home / "first")
for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    print(f"{path.stat().st_size / 1e3:8.1f} kB  {path.relative_to(folder)}")

# %%
# Tensors are safetensors, images are PNG, and everything else is JSON that can be read without this package: settings,
# prompts with their tokens, the hooks with their configuration, the versions of the packages, and a hash of all weights
# of the model. There is no pickle, so a folder from somebody else can be opened without running anything of theirs.

import json

content = json.loads((folder / "run.json").read_text())
print(content["provenance"]["weights"], content["provenance"]["versions"], sep="\n")
print([hook["pair"] for hook in content["hooks"]])

# %%
# ## Open
#
# Another process, which loads no model. A tensor is read from its file when it is asked for, and only then.

script = """
import sys, time, sdprobe
began = time.perf_counter()
run = sdprobe.open(sys.argv[1])
print(run)
print(f"opened in {1000 * (time.perf_counter() - began):.1f} ms")
print(run["maps"].heat_map("circle"), run["latents"]["denoised"].shape, run["statistics"].cosine[-1])
print(hasattr(run, "model"), run.provenance.model)
"""
print(subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout)

# %%
# Every figure can be drawn from the folder as from the live run:

again = sdprobe.open(folder)
words = ("red", "circle", "blue", "square")
steps = (0, 3, 7, 14, 29)
# mkdocs_gallery_thumbnail_panel = 7
plot.sheet(
    [[again["maps"].heat_map(word, step=step).cell() for step in steps] for word in words],
    rows=words,
    columns=[f"step {step}" for step in steps],
)

# %%
equal = [
    bool((again["maps"].heat_map(word, step=step).values == run["maps"].heat_map(word, step=step).values).all())
    for word in words
    for step in steps
]
print(f"{sum(equal)} of {len(equal)} maps equal those of the live run, bit for bit")

# %%
# ## Continue
#
# The run kept `Checkpoints`, so it can be continued from its folder: the model is loaded by the name that the folder
# holds, and its weights must have the same hash. With nothing changed the result is the same, bit for bit.

same = sdprobe.resume(folder, step=15, progress=False)
print(bool((same.latents == run.latents).all()))

other = "a red circle left of a green square"
late = {step: sdprobe.resume(folder, step, model=model, prompt=other, progress=False) for step in (5, 15, 25)}
plot.sheet(
    [[run.images[0], *(own.images[0] for own in late.values())]],
    columns=["the run", *(f"“green” from\nstep {step}" for step in late)],
)

# %%
# ## Many runs
#
# `sdprobe.Runs` looks through a folder of saved runs, and reads of each only what is asked for.

for scale in (1.0, 3.0, 9.0):
    for seed in (0, 1):
        settings = {"steps": 15, "guidance_scale": scale, "seed": seed, "progress": False}
        own = sample(model, prompt, hooks={"statistics": Statistics()}, **settings)
        own.save(home / f"scale-{scale:g}-seed-{seed}")

runs = sdprobe.Runs(home)
print(runs, len(runs.where(steps=15, seed=0)))

# %%
table = runs.where(steps=15).table(metrics={"norm of x0": lambda run: float(run["statistics"]["denoised"].norm[-1, 0])})
print(table)
