"""
# Text encoder: tokens, embeddings, layers

A diffusion model does not get the prompt as text. It gets a tensor. This page follows a prompt through the text
encoder: tokens, token embeddings, positions, layers. It ends with what a change of one word changes in the tensor.
"""

# %%
# ## Tokens
#
# The tokenizer splits the text into tokens and gives each its number. A word may be several tokens. The prompt is
# padded to the context length of the encoder.

import sdprobe

model = sdprobe.load()
prompt = "a checkered red circle above a blue star"
print(sdprobe.tokens(model, prompt))

# %%
# ## The stages of the text encoder
#
# The embedding of each token is added to the embedding of its position. The layers mix the tokens. The output of the
# last layer, after a layer norm, conditions the U-Net.

stages = sdprobe.embed(model, prompt)
print(stages)

# %%
# ## Cosines of token embeddings
#
# The cosine of every two words' embeddings, before the first layer. The words for colours are close to each other, and
# so are the words for shapes: in training they occur in the same contexts.

import numpy as np
import torch
from matplotlib.figure import Figure

colours = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
shapes = ["circle", "square", "triangle", "star", "cross", "ring"]
words = [*colours, *shapes]
vectors = torch.nn.functional.normalize(sdprobe.embed(model, words).token[:, 1], dim=-1)

# mkdocs_gallery_thumbnail_panel = 0
figure = Figure(figsize=(5.6, 4.8), layout="constrained")
ax = figure.subplots()
cosines = (vectors @ vectors.T).numpy()
shown = ax.imshow(np.where(np.eye(len(words), dtype=bool), np.nan, cosines), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
ax.set_xticks(range(len(words)), words, rotation=60, ha="right", rotation_mode="anchor")
ax.set_yticks(range(len(words)), words)
ax.spines[:].set_visible(False)
figure.colorbar(shown, label="cosine of token embeddings", shrink=0.8, extend="both")
figure

# %%
# ## The effect of one word
#
# The encoder is causal: a token attends to the tokens before it and to none after it. So a swap of “red” changes
# nothing to its left, at any layer. To its right, this encoder passes the colour to the noun it belongs to and to the
# relation, and hardly to the other object. The colour is bound to its noun in the text encoder, before the U-Net runs.

read = stages.prompts[0]
swapped = sdprobe.embed(model, prompt.replace(" red ", " green "))
changes = torch.stack(
    [
        (new - old).norm(dim=-1)[0] / old.norm(dim=-1)[0]
        for old, new in zip(stages.hidden_states, swapped.hidden_states, strict=True)
    ]
)
count = read.roles.index("pad") + 3
tokens = [
    token.removesuffix("</w>") if role == "word" else role
    for token, role in zip(read.tokens[:count], read.roles[:count], strict=True)
]

figure = Figure(figsize=(7, 2.4), layout="constrained")
ax = figure.subplots()
shown = ax.imshow(changes[:, :count], cmap="viridis", aspect="auto")
ax.set_xticks(range(count), tokens, rotation=45, ha="right", rotation_mode="anchor")
ax.set_yticks(range(len(changes)), ["input", *(f"layer {i}" for i in range(1, len(changes)))])
ax.spines[:].set_visible(False)
figure.colorbar(shown, label="relative change")
figure

# %%
# To the left of the word the change is exactly zero:

print(changes[:, : read.positions("red")[0]].abs().max().item())
