"""
# Diffusion Lens: a picture from each layer of the text encoder

A text encoder has layers, and the U-Net is conditioned on the last. The Diffusion Lens conditions it on an earlier one:
the final norm of the encoder is applied to the hidden states of that layer, and the picture shows what the encoder
represents there (Toker et al. 2024).
"""

# %%
# ## One picture for every layer
#
# `ReadLayer` is a transform at `prompt_embeds`. Layer 0 is the input: words without context. The last layer is the
# unchanged model. The seeds are selected: this small model sometimes draws a ring twice, with the last layer too.

import sdprobe
from sdprobe import AttentionMaps, ReadLayer, ReplaceToken, plot, sample

model = sdprobe.load()
prompts = ["a red circle on a black background", "a green star above a yellow square", "a small blue ring"]
settings = {"steps": 25, "guidance_scale": 5.0, "seed": [3, 4, 7], "progress": False}
layers = range(len(sdprobe.embed(model, prompts).hidden_states))

maps = AttentionMaps()
runs = [sample(model, prompts, hooks=[ReadLayer(layer), maps], **settings) for layer in layers]
names = ["input", *(f"layer {layer}" for layer in layers[1:])]
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet(
    [[run.images[i] for run in runs] for i in range(len(prompts))],
    rows=["a red circle on a\nblack background", "a green star above\na yellow square", "a small blue ring"],
    columns=names,
)

# %%
# ## Heat maps for each layer
#
# The heat map of the first noun of every prompt, with the same conditioning.

nouns = ["circle", "star", "ring"]
plot.sheet(
    [[run[maps].heat_map(noun, image=i).cell() for run in runs] for i, noun in enumerate(nouns)],
    rows=[f"“{noun}”" for noun in nouns],
    columns=names,
)

# %%
# ## Composition with a token swap
#
# A token is swapped before the layers, so the swap shows in the picture of every layer.

swapped = [
    sample(
        model,
        prompts[0],
        hooks=[ReplaceToken("red", with_="cyan"), ReadLayer(layer)],
        steps=25,
        seed=3,
        guidance_scale=5.0,
        progress=False,
    )
    for layer in layers
]
plot.sheet([[run.images[0] for run in swapped]], columns=names)
