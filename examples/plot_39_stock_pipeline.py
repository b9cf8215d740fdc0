"""
# Hooks in a stock diffusers pipeline

Code that already calls a diffusers pipeline need not be rewritten to use hooks. With `attach`, hooks act while the
pipeline runs its own loop: text-to-image, image-to-image, inpainting, ControlNet. Inside the `with` the pipeline is
called as before; after the `with` it is unchanged.
"""

# %%
# ## Text-to-image
#
# The embedded model is a `StableDiffusionPipeline`. Here it is called twice with the same seed, the second time with an
# observer attached. The pictures are the same, bit for bit.

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
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet([row(watched, run[maps], words)], columns=["picture", *words])

# %%
# ## The same as `sample`
#
# The points come in the same order with the same values, so both ways give the same maps.

ours = sample(pipe, prompt, hooks=[maps], steps=25, guidance_scale=5.0, seed=0, progress=False)
[torch.equal(run[maps].heat_map(word).values, ours[maps].heat_map(word).values) for word in words]

# %%
# ## Image-to-image
#
# An image-to-image pipeline with the same components starts from the picture above, with another prompt. The hooks act
# in the steps that `strength` leaves.

redraw = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
redraw.set_progress_bar_config(disable=True)
other = "a red circle left of a green star"
with attach(redraw, hooks=[maps]) as redrawn:
    changed = call(redraw, other, image=plain, strength=0.8)
words = ["red", "circle", "green", "star"]
plot.sheet([row(changed, redrawn[maps], words)], columns=["picture", *words])

# %%
# ## Transforms
#
# Transforms act in a stock pipeline too: here the denoiser gets "yellow" for the word "blue" of the prompt.

with attach(pipe, hooks=[ReplaceToken("blue", with_="yellow")]):
    swapped = call(pipe)
plot.sheet([[plain, changed, swapped]], columns=["the pipeline", "image-to-image", "blue → yellow"])

# %%
# Afterwards the pipeline is unchanged.

again = call(pipe)
bool(again.tobytes() == plain.tobytes())
