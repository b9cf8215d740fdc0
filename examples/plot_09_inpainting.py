"""
# Keep a part, make a part anew

A picture can be entered in the middle of the process: noised to the level of some step, and cleaned from there with a
prompt. `Inpaint` does so at every step for the part of a picture that is to stay, while the rest is free.
"""

# %%
# ## Image to image
#
# `strength` says how much of a picture to replace, or `start_step` with which step to begin. From the first step little
# of it is left, from later ones its place and its background. The last steps still cut the corners, but are too few to
# change the colour.

import numpy as np
from PIL import Image

import sdprobe
from sdprobe import AttentionMaps, Inpaint, Preview, ReplaceToken, film, plot, sample

model = sdprobe.load()
settings = {"steps": 25, "guidance_scale": 5.0, "progress": False}
maps = AttentionMaps()
before = sample(model, "a large red circle on a white background", hooks=[maps], seed=1, **settings)
picture = before.images[0]

starts = (0, 8, 16, 20, 22, 23)
others = [
    sample(model, "a large blue square", image=picture, start_step=start, seed=1, **settings).images[0]
    for start in starts
]
plot.sheet([[picture, *others]], columns=["picture", *(f"from step {start}" for start in starts)])

# %%
# ## Inpainting
#
# White is made anew, black is kept. The mask can be drawn; or it can be where a word was looked at, here the heat map
# of “red”, to paint over the object or everything but the object.

drawn = np.zeros((64, 64), dtype=bool)
drawn[32:, :] = True
heat = before[maps].heat_map("red").resize((64, 64))
cases = {
    "a blue square on a white background": drawn,
    "a yellow circle on a white background": heat.mask(0.2).numpy(),
    "a red circle on a black background": ~heat.mask(0.5).numpy(),
}
seeds = {"seed": [0, 1, 2, 3], "images_per_prompt": 4}
runs = [sample(model, prompt, hooks=[Inpaint(picture, mask)], **seeds, **settings) for prompt, mask in cases.items()]
plot.sheet(
    [[picture, Image.fromarray(mask), *run.images] for mask, run in zip(cases.values(), runs, strict=True)],
    rows=["“a blue square”", "“a yellow circle”", "“a black background”"],
    columns=["picture", "mask", *(f"seed {seed}" for seed in seeds["seed"])],
)

# %%
# ## What is kept is kept
#
# In x_t the kept part is always the picture at the step's own noise level, so the U-Net sees both parts in one light,
# and what it paints fits. Every pixel outside the mask is the autoencoder's own, to the last bit.

preview = Preview(decoder="vae")
run = sample(model, "a blue square on a white background", hooks=[Inpaint(picture, drawn), preview], seed=2, **settings)
film(run[preview]).sheet(columns=7)

# %%
# ## Outpainting
#
# A picture with room around it is painted outwards: the mask is the room. What the room is filled with beforehand only
# matters at the edge, where the autoencoder looks across; so the edge is drawn out. The stripes go on where they
# were, though the run makes a picture larger than any the model has learned from.

inner = sample(model, "a red circle above a green square on a striped background", seed=0, **settings).images[0]
room = 16
canvas = Image.fromarray(np.pad(np.asarray(inner), ((room, room), (room, room), (0, 0)), mode="edge"))
outside = np.ones((canvas.height, canvas.width), dtype=bool)
outside[room:-room, room:-room] = False
prompts = ["a striped background", "a red circle above a green square on a striped background"]
large = {"height": canvas.height, "width": canvas.width} | seeds | settings
runs = [sample(model, prompt, hooks=[Inpaint(canvas, outside)], **large) for prompt in prompts]
plot.sheet(
    [[canvas, Image.fromarray(outside), *run.images] for run in runs],
    rows=["“a striped\nbackground”", "“a red circle\nabove a green …”"],
    columns=["picture, drawn out", "mask", *(f"seed {seed}" for seed in seeds["seed"])],
)

# %%
# ## It composes
#
# Inpainting is a hook like any other: here a word of the prompt is swapped in the text encoder, and a third hook keeps
# where “blue” is looked at.

swap = ReplaceToken("square", with_="circle")
run = sample(
    model,
    "a blue square on a white background",
    hooks=[swap, Inpaint(picture, drawn), maps],
    **seeds,
    **settings,
)
plot.sheet(
    [run.images, [run[maps].heat_map("blue", image=i).cell() for i in range(4)]],
    rows=["picture", "“blue”"],
    columns=[f"seed {seed}" for seed in seeds["seed"]],
)
