"""
# A checkpoint of one's own

Everything in this gallery runs on Stable Diffusion as it does on the embedded model: only the line that loads the model
is another. This page runs offline, so it loads a folder that it saved itself, and says which line to put in its place.
"""

# %%
# ## A folder
#
# What diffusers saves, and what one gets from the hub, is a folder with a `model_index.json`. Here the embedded model
# is saved to one, and loaded from it.

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
# `load` finds out which family it is:

model = sdprobe.load(path)
model

# %%
# ## The real one
#
# With Stable Diffusion 1.5 and a GPU of 8 GB, the line above becomes these two. Half precision halves the memory; heat
# maps are added up in fp32 all the same.
#
# ```py
# checkpoint = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# model = sdprobe.load(checkpoint, dtype=torch.float16, device="cuda")
# ```
#
# A single file (`sdprobe.load("v1-5-pruned-emaonly.safetensors")`) does as well, or a pipeline that is live already
# (`sdprobe.load(pipe)`). Leave attention slicing and xFormers off where hooks want attention: they compute it in a way
# that nobody can watch, and the run would say so.
#
# ## The same lines as ever
#
# Nothing below knows which model it is. What is left out has that pipeline's own default: sizes, steps, guidance.

prompt = "a red circle left of a blue square"
maps, preview = AttentionMaps(), Preview(decoder="vae")
settings = {"steps": 25, "guidance_scale": 5.0, "seed": 1, "progress": False}
run = sample(model, prompt, hooks=[maps, preview], **settings)
words = ["red", "circle", "blue", "square"]
plot.sheet(
    [[run.images[0], *(run[maps].heat_map(word).cell() for word in words)]],
    columns=["picture", *(f"“{word}”" for word in words)],
)

# %%
# Before the first experiment, three questions to a new model. Does it read the words as words?

sdprobe.tokens(model, prompt)

# %%
# Was every attention site seen?

print(run.coverage)

# %%
# And is the picture the pipeline's own? Then hooks see what anyone would have run.

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
# ## What it costs
#
# Memory that hooks hold does not grow with the steps, unless steps are kept apart. The maps of one picture of Stable
# Diffusion 1.5 and all 77 tokens, summed over layers and heads, take less than 2 MB. Asking for a few words makes it
# less.

one_word = AttentionMaps(words=["red"])
again = sample(model, prompt, hooks=[one_word], **settings)
print(f"{run[maps].held_bytes / 1e3:.0f} kB for all tokens, {again[one_word].held_bytes / 1e3:.0f} kB for one word")

# %%
# ## Change something
#
# And then the first experiment, with the film of it.

swapped = sample(model, prompt, hooks=[ReplaceToken("circle", with_="star"), preview], **settings)
film(swapped[preview]).sheet(columns=7)

# %%
# The folder was only for this page.

folder.cleanup()
