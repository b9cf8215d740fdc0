"""
# From letters to conditioning

What a diffusion model is told is not the prompt but a tensor. This page follows a prompt on its way there: tokens,
their embeddings, positions, the layers of the text encoder, and what one word changes on that way.
"""

# %%
# ## Tokens
#
# The tokenizer cuts the text into pieces it has numbers for. A word may be several of them, and the prompt is filled up
# to the length the encoder was made for.

import sdprobe

model = sdprobe.load()
prompt = "a checkered red circle above a blue star"
print(sdprobe.tokens(model, prompt))

# %%
# ## The stages of the encoder
#
# Each token's embedding gets its position's added; layers mix them; the last one, normed, conditions the U-Net.

stages = sdprobe.embed(model, prompt)
print(stages)

# %%
# ## What the table of tokens knows
#
# The cosine of every two words' embeddings, before any layer has seen them: the words for colours have drawn together,
# and those for shapes, because what the model has to say of them is alike.

import numpy as np
import torch
from matplotlib.figure import Figure

colours = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
shapes = ["circle", "square", "triangle", "star", "cross", "ring"]
words = [*colours, *shapes]
vectors = torch.nn.functional.normalize(sdprobe.embed(model, words).token[:, 1], dim=-1)

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
# ## What one word changes
#
# The encoder is causal: a token is told of those before it and of none after it. So a swap of “red” changes nothing to
# its left, at any layer. To its right, this encoder passes the colour to the noun it belongs to and to the relation,
# and hardly to the other object: what binds a colour to its noun happens here, before the U-Net has seen anything.

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
# To the left of the word the change is nought, exactly:

print(changes[:, : read.positions("red")[0]].abs().max().item())
