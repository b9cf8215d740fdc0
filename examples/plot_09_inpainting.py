"""
# Image-to-image, inpainting and outpainting

A run can start from a given picture: noise of some step is added to it, and the run removes it with a prompt. `Inpaint`
does so at every step for the part of a picture that is kept, while the rest is made new.
"""

# %%
# ## Image to image
#
# `strength` is the share of the steps that are taken, and so how much of the picture is replaced; `start_step` names
# the first step instead. From early steps little of the picture is left; from later ones, the position of the object
# and the background. The last steps change some edges, but not the colour.

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
# The white part of the mask is made new, the black part is kept. The mask can be drawn, or it can be made from a heat
# map, here that of “red”: to repaint the object, or everything but the object.

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
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet(
    [[picture, Image.fromarray(mask), *run.images] for mask, run in zip(cases.values(), runs, strict=True)],
    rows=["“a blue square”", "“a yellow circle”", "“a black background”"],
    columns=["picture", "mask", *(f"seed {seed}" for seed in seeds["seed"])],
)

# %%
# ## The kept part is exact
#
# In x_t the kept part is always the given picture at the noise level of the step, so both parts have the same noise
# level and the new part fits the kept one. Every kept pixel is that of the autoencoder, bit for bit.

preview = Preview(decoder="vae")
run = sample(model, "a blue square on a white background", hooks=[Inpaint(picture, drawn), preview], seed=2, **settings)
film(run[preview]).sheet(columns=7)

# %%
# ## Outpainting
#
# Outpainting adds a border to a picture: the mask is the border. What the border is filled with beforehand matters only
# at the edge of the picture, where the autoencoder sees both sides; so the edge pixels are repeated. The stripes
# continue where they were, though the picture is larger than any the model was trained on.

inner = sample(model, "a red circle above a green square on a striped background", seed=0, **settings).images[0]
border = 16
canvas = Image.fromarray(np.pad(np.asarray(inner), ((border, border), (border, border), (0, 0)), mode="edge"))
outside = np.ones((canvas.height, canvas.width), dtype=bool)
outside[border:-border, border:-border] = False
prompts = ["a striped background", "a red circle above a green square on a striped background"]
large = {"height": canvas.height, "width": canvas.width} | seeds | settings
runs = [sample(model, prompt, hooks=[Inpaint(canvas, outside)], **large) for prompt in prompts]
plot.sheet(
    [[canvas, Image.fromarray(outside), *run.images] for run in runs],
    rows=["“a striped\nbackground”", "“a red circle\nabove a green …”"],
    columns=["picture, edge repeated", "mask", *(f"seed {seed}" for seed in seeds["seed"])],
)

# %%
# ## Composition with other hooks
#
# Inpainting is a hook and runs together with others: here one word of the prompt is swapped in the text encoder, and a
# third hook records the attention to “blue”.

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
