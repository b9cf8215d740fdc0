"""
# Inversion and edits of a given picture

To edit a picture that no run made, a run must be found that makes it. Several ways to find one are held against each
other, without guidance and with it, and the best is the start of an edit by prompt-to-prompt.
"""

# %%
# ## Which inversion holds
#
# Three pictures by the renderer, with their captions. Plain DDIM inversion uses the prediction of one noise level for
# the next; a correction by fixed-point iteration nearly undoes that. With guidance both drift. Negative-prompt
# inversion gives the unconditional rows the prompt itself, so that guidance adds nothing while the picture is made
# again. Null-text optimisation learns, for each step, what the unconditional rows should be told.

import sdprobe
from sdprobe import invert, plot
from sdprobe.shapes import Object, render

model = sdprobe.load()
scenes = [
    render([Object("circle", "red", (19, 30), 13), Object("square", "blue", (46, 36), 11)], background="white"),
    render([Object("star", "yellow", (22, 40), 13), Object("triangle", "green", (45, 22), 12)], background="black"),
    render([Object("ring", "purple", (30, 33), 16)], background="striped"),
]
pictures, captions = [own.image for own in scenes], [own.caption for own in scenes]
settings = {"steps": 14, "progress": False}

columns, reconstructed = [], []
for guidance_scale, methods in ((1.0, ("ddim", "fixed-point")), (5.0, ("ddim", "negative-prompt", "null-text"))):
    for method in methods:
        found = invert(model, pictures, captions, method=method, guidance_scale=guidance_scale, **settings)
        again = found.sample(progress=False)
        columns.append(f"{method}\nguidance {guidance_scale:g}\n{found.psnr(again).mean():.1f} dB")
        reconstructed.append(again.images)
columns = [f"given\n\nautoencoder\n{found.autoencoder_psnr.mean():.1f} dB", *columns]
plot.sheet(
    [[model.pictures(found.pixels)[k], *(images[k] for images in reconstructed)] for k in range(3)], columns=columns
)

# %%
# ## Edits
#
# The inverted picture is the source of `edit`: the first picture of each run is made again from its noise, and the
# others take their attention from it. The upper row is inverted by null text, the lower by a negative prompt. Not all
# that is not named stays: a yellow square tints the circle beside it, and the background of a ring takes some colour.

first = invert(model, pictures[0], captions[0], method="null-text", guidance_scale=5.0, **settings)
print(captions[0])
swaps = {
    "given": None,
    "made again": None,
    "green circle": captions[0].replace("red", "green"),
    "yellow square": captions[0].replace("blue", "yellow"),
    "star": captions[0].replace("circle", "star"),
}
edited = first.edit([own for own in swaps.values() if own], self_attention=0.8, progress=False)
second = invert(model, pictures[2], captions[2], method="negative-prompt", guidance_scale=5.0, **settings)
others = [captions[2].replace("purple", colour) for colour in ("blue", "red", "orange")]
of_ring = second.edit(others, self_attention=0.8, progress=False)
# mkdocs_gallery_thumbnail_panel = 1
plot.sheet(
    [
        [model.pictures(first.pixels)[0], *edited.images],
        [model.pictures(second.pixels)[0], *of_ring.images],
    ],
    rows=["green circle,\nyellow square,\nstar", "blue, red,\norange"],
    columns=["given", "made again", "first edit", "second edit", "third edit"],
)

# %%
# ## Nothing but the named thing
#
# With `LocalBlend` nothing but the named thing changes: outside of it the latents are those of the picture made again,
# to the last bit.

blended = first.edit(
    swaps["green circle"], self_attention=0.8, blend=(["red", "circle"], ["green", "circle"]), progress=False
)
plot.sheet([[model.pictures(first.pixels)[0], *blended.images]], columns=["given", "made again", "blended"])
