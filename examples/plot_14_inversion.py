"""
# DDIM inversion: maps and edits of given pictures

Heat maps and edits need a run, and a run makes its own picture. Inversion finds a run for a given picture: the noise
from which the model makes nearly this picture.
"""

# %%
# ## Inversion and reconstruction
#
# Three pictures by the renderer, not from the training data. `invert` runs DDIM backwards, from picture to noise;
# `sample` runs it forwards again. Without guidance each picture is reconstructed nearly as well as the autoencoder
# allows.

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
    rows=["given", "its noise", "reconstructed"],
)

# %%
# ## Heat maps of a given picture
#
# The reconstruction is a run like any other. Its heat maps are heat maps of the given picture.

words = [("red", "circle", "blue", "square"), ("yellow", "star", "green", "triangle")]
plot.sheet(
    [[again.images[i], *(again[maps].heat_map(word, image=i).cell() for word in words[i])] for i in range(2)],
    rows=[own.caption.split(" on a ")[0].replace(" of ", "\nof ") for own in scenes[:2]],
    columns=["reconstructed", "first colour", "first shape", "second colour", "second shape"],
)

# %%
# ## Edits
#
# A transform in the reconstruction edits the given picture. A little guidance makes the new word more effective. The
# swaps shown are selected: some others move the object, and “red” for “purple” deforms it.

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
# mkdocs_gallery_thumbnail_panel = 3
plot.sheet(rows, columns=["given", "another colour", "another colour", "another shape"])

# %%
# ## A single call of the denoiser
#
# If only attention is needed, one call of the denoiser is enough: add noise of one level to the picture, and record the
# attention while the denoiser predicts the noise. With little noise a word is localised on its object; with much noise,
# only the side that the prompt names is left.

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
