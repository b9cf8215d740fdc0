"""
# Real pictures

Heat maps and edits need a run, and a run makes its own picture. Inversion finds a run for a given one: the noise from
which the model would have made it.
"""

# %%
# ## To noise and back
#
# Three pictures by the renderer, none of them ever seen by the model. `invert` runs DDIM upwards, from picture to
# noise; the run downwards retraces it. Without guidance each comes back nearly as near as the autoencoder allows.

import sdprobe
from sdprobe import AttentionMaps, ReplaceToken, decode, encode, invert, look, plot, psnr
from sdprobe.shapes import Object, render

model = sdprobe.load()
scenes = [
    render([Object("circle", "red", (19, 30), 13), Object("square", "blue", (46, 36), 11)], background="white"),
    render([Object("star", "yellow", (22, 40), 13), Object("triangle", "green", (45, 22), 12)], background="black"),
    render([Object("ring", "purple", (30, 33), 16)], background="striped"),
]
pictures, captions = [own.image for own in scenes], [own.caption for own in scenes]
inverted = invert(model, pictures, captions, steps=30, progress=False)
maps = AttentionMaps()
again = inverted.sample(hooks=[maps], progress=False)

limits = psnr(decode(model, encode(model, pictures).mean), inverted.pixels)
for caption, near, limit in zip(captions, inverted.psnr(again), limits, strict=True):
    print(f"{near:.1f} dB (autoencoder alone {limit:.1f} dB): {caption}")
plot.sheet(
    [model.pictures(inverted.pixels), inverted.run.images, again.images],
    rows=["given", "its noise", "back again"],
)

# %%
# ## Heat maps of a given picture
#
# The run back again is a run like any other. What looks on its way looks at the picture that was given.

words = [("red", "circle", "blue", "square"), ("yellow", "star", "green", "triangle")]
plot.sheet(
    [[again.images[i], *(again[maps].heat_map(word, image=i).cell() for word in words[i])] for i in range(2)],
    rows=[own.caption.split(" on a ")[0].replace(" of ", "\nof ") for own in scenes[:2]],
    columns=["back again", "first colour", "first shape", "second colour", "second shape"],
)

# %%
# ## Edits
#
# What changes something on the way back changes the picture that was given. A little guidance makes the new word heard.
# The swaps shown are chosen: some others move the thing, and “red” for “purple” bends it.

circle = render([Object("circle", "red", (30, 33), 16)], background="white")
edits = [
    (circle, [("red", "green"), ("red", "yellow"), ("circle", "star")]),
    (scenes[2], [("purple", "blue"), ("purple", "orange"), ("ring", "star")]),
]
rows = []
for own, swaps in edits:
    one = invert(model, own.image, own.caption, steps=20, progress=False)
    rows.append([model.pictures(one.pixels)[0]])
    for word, other in swaps:
        swap = ReplaceToken(word, with_=other)
        rows[-1].append(one.sample(hooks=[swap], guidance_scale=2.0, progress=False).images[0])
plot.sheet(rows, columns=["given", "another colour", "another colour", "another shape"])

# %%
# ## One look
#
# Where only attention is wanted, one call is enough: noise the picture to a level, and look while the denoiser tells
# the noise from the picture. Under little noise a word finds its object at once; under much, only the side that the
# prompt says.

timesteps = [100, 300, 500, 700, 900]
looks = [look(model, pictures[0], captions[0], timestep, hooks=[maps]) for timestep in timesteps]
plot.sheet(
    [
        [run.images[0] for run in looks],
        [run[maps].heat_map("red").cell() for run in looks],
        [run[maps].heat_map("blue").cell() for run in looks],
    ],
    rows=["predicted x0", "“red”", "“blue”"],
    columns=[f"timestep {timestep}" for timestep in timesteps],
)
