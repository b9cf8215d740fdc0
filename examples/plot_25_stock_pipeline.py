"""
# Inside a stock pipeline

Code that already calls a pipeline of diffusers need not be rewritten to look inside it. `attach` lets hooks act and
look while the pipeline runs its own loop: text-to-image, image-to-image, inpainting, ControlNet. Inside the `with` the
pipeline is called as ever; when the `with` is left, it is as it was.
"""

# %%
# ## A plain pipeline
#
# The embedded model is a `StableDiffusionPipeline` like any other. Here it is called twice with the same seed, the
# second time with hooks attached. They only look, so the pictures are the same to the last bit.

import torch
from diffusers import StableDiffusionImg2ImgPipeline

import sdprobe
from sdprobe import AttentionMaps, ReplaceToken, attach, plot, sample

pipe = sdprobe.load().pipe
pipe.set_progress_bar_config(disable=True)
prompt = "a red circle left of a blue square"


def call(pipe, text=prompt, **settings):
    """The pipeline's own call, with its own names of things."""
    generator = torch.Generator("cpu").manual_seed(0)
    return pipe(text, num_inference_steps=25, guidance_scale=5.0, generator=generator, **settings).images[0]


plain = call(pipe)
maps = AttentionMaps()
with attach(pipe, hooks=[maps]) as run:
    watched = call(pipe)
run, plain.tobytes() == watched.tobytes()

# %%
# The run is filled as `sample` fills it: `run[maps]` gives the heat map of every word.


def row(picture, record, words):
    """A picture beside the heat maps of some words."""
    return [picture, *(record.heat_map(word).cell() for word in words)]


words = ["red", "circle", "blue", "square"]
plot.sheet([row(watched, run[maps], words)], columns=["picture", *words])

# %%
# ## The same as `sample`
#
# The points are passed in the same order with the same values, so both ways come to the same maps.

ours = sample(pipe, prompt, hooks=[maps], steps=25, guidance_scale=5.0, seed=0, progress=False)
[torch.equal(run[maps].heat_map(word).values, ours[maps].heat_map(word).values) for word in words]

# %%
# ## From a picture
#
# An image-to-image pipeline on the same parts, which starts from the picture above and is asked for another one. What
# `strength` leaves of the steps is what the hooks see.

redraw = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
redraw.set_progress_bar_config(disable=True)
other = "a red circle left of a green star"
with attach(redraw, hooks=[maps]) as redrawn:
    changed = call(redraw, other, image=plain, strength=0.8)
words = ["red", "circle", "green", "star"]
plot.sheet([row(changed, redrawn[maps], words)], columns=["picture", *words])

# %%
# ## Hooks that change something
#
# act in a stock pipeline too: one prompt, but for the word "blue" the denoiser is told "yellow".

with attach(pipe, hooks=[ReplaceToken("blue", with_="yellow")]):
    swapped = call(pipe)
plot.sheet([[plain, changed, swapped]], columns=["the pipeline", "image-to-image", "blue → yellow"])

# %%
# The pipeline itself has kept nothing of all this.

again = call(pipe)
bool(again.tobytes() == plain.tobytes())
