"""
# The diffusion lens

A text encoder has layers, and the U-Net is shown the last. What if it were shown an earlier one? Sent through the
encoder's final norm, every layer's hidden states are conditioning of the right size, and the picture made of them shows
what the encoder has understood by then (Toker et al. 2024, “Diffusion Lens”).
"""

# %%
# ## One picture for every layer
#
# `ReadLayer` is a transform at `prompt_embeds`. Layer 0 is the input: words that have not met yet. The last layer is
# the model as it is. The seeds are chosen: this small model draws a ring twice now and then, under the last layer too.

import sdprobe
from sdprobe import AttentionMaps, ReadLayer, ReplaceToken, plot, sample

model = sdprobe.load()
prompts = ["a red circle on a black background", "a green star above a yellow square", "a small blue ring"]
settings = {"steps": 25, "guidance_scale": 5.0, "seed": [3, 4, 7], "progress": False}
layers = range(len(sdprobe.embed(model, prompts).hidden_states))

maps = AttentionMaps()
runs = [sample(model, prompts, hooks=[ReadLayer(layer), maps], **settings) for layer in layers]
names = ["input", *(f"layer {layer}" for layer in layers[1:])]
plot.sheet(
    [[run.images[i] for run in runs] for i in range(len(prompts))],
    rows=["a red circle on a\nblack background", "a green star above\na yellow square", "a small blue ring"],
    columns=names,
)

# %%
# ## Does the U-Net find the words?
#
# The heat map of the first noun of every prompt, under the same conditioning.

nouns = ["circle", "star", "ring"]
plot.sheet(
    [[run[maps].heat_map(noun, image=i).cell() for run in runs] for i, noun in enumerate(nouns)],
    rows=[f"“{noun}”" for noun in nouns],
    columns=names,
)

# %%
# ## It composes
#
# A swap of a token happens before the layers, so the lens sees it.

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
