"""
# Loading your own checkpoint

Everything in this gallery runs on Stable Diffusion as on the embedded model; only the line that loads the model
differs. This page runs offline, so it loads a folder that it saved itself, and shows the line for a real checkpoint.
"""

# %%
# ## A folder
#
# diffusers saves a pipeline as a folder with a `model_index.json`, and the hub holds such folders. Here the embedded
# model is saved to one, and loaded from it.

import tempfile
from pathlib import Path

import torch

import sdprobe
from sdprobe import AttentionMaps, Preview, ReplaceToken, film, plot, sample

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "my-model"
sdprobe.load().pipe.save_pretrained(path)
print(*sorted(part.name for part in path.iterdir()), sep="\n")

# %%
# `load` recognises the family:

model = sdprobe.load(path)
model

# %%
# ## Stable Diffusion 1.5
#
# With Stable Diffusion 1.5 and a GPU of 8 GB, replace the line above by these two. Half precision halves the memory;
# heat maps are summed in fp32 in any case.
#
# ```py
# checkpoint = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# model = sdprobe.load(checkpoint, dtype=torch.float16, device="cuda")
# ```
#
# `load` also takes a single file (`sdprobe.load("v1-5-pruned-emaonly.safetensors")`), or a pipeline in memory
# (`sdprobe.load(pipe)`). Turn attention slicing and xFormers off where hooks need attention: they do not call torch's
# attention function, so their attention cannot be recorded, and the run says so.
#
# ## A run
#
# The lines below are the same for every model. Settings that are not given have the default of the pipeline: size,
# steps, guidance.

prompt = "a red circle left of a blue square"
maps, preview = AttentionMaps(), Preview(decoder="vae")
settings = {"steps": 25, "guidance_scale": 5.0, "seed": 1, "progress": False}
run = sample(model, prompt, hooks=[maps, preview], **settings)
words = ["red", "circle", "blue", "square"]
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet(
    [[run.images[0], *(run[maps].heat_map(word).cell() for word in words)]],
    columns=["picture", *(f"“{word}”" for word in words)],
)

# %%
# Before the first experiment, check three things. Does the tokenizer know the words?

sdprobe.tokens(model, prompt)

# %%
# Was every attention site recorded?

print(run.coverage)

# %%
# Is the picture the same as that of the pipeline?

model.pipe.set_progress_bar_config(disable=True)
stock = model.pipe(
    prompt,
    num_inference_steps=25,
    guidance_scale=5.0,
    generator=torch.Generator("cpu").manual_seed(1),
    output_type="latent",
).images
print(torch.equal(run.latents, stock))

# %%
# ## Memory
#
# The memory of a record does not grow with the number of steps, unless steps are kept apart. The maps of one picture of
# Stable Diffusion 1.5 and all 77 tokens, summed over layers and heads, take less than 2 MB. Maps of a few words take
# less. What would be more than a quarter of the free memory, or than `budget=`, is refused before the first step; with
# steps kept apart, `dtype="float16"` takes half of it, and `device="cpu"` leaves the GPU its own.

one_word = AttentionMaps(words=["red"])
again = sample(model, prompt, hooks=[one_word], **settings)
print(f"{run[maps].held_bytes / 1e3:.0f} kB for all tokens, {again[one_word].held_bytes / 1e3:.0f} kB for one word")

# %%
# ## A first experiment
#
# A swap of one word, with its film.

swapped = sample(model, prompt, hooks=[ReplaceToken("circle", with_="star"), preview], **settings)
film(swapped[preview]).sheet(columns=7)

# %%
# The folder is no longer needed.

folder.cleanup()
