"""
# Heat maps by step, layer and head

A heat map is a sum over steps, layers and heads. `AttentionMaps(keep=...)` keeps the parts of the sum, so a map can be
made for one word at one step, in one layer, by one head.
"""

# %%
# ## By step and layer
#
# One word, from the first step to the last, in the down blocks, the middle block and the up blocks. The word is bound
# to a position first in the up blocks with the finest grid.

import numpy as np
from matplotlib.figure import Figure

import sdprobe
from sdprobe import AttentionMaps, plot, sample
from sdprobe.shapes import detect


class Sites(sdprobe.Observer):
    """The name of every cross-attention site, and where it is."""

    kinds = ("cross",)

    def start(self, run):
        self.names = {}

    def attention(self, attn, site):
        block = ".".join([part for part in site.name.split(".") if part.isdigit()][:2])
        self.names[site.name] = f"{site.place} {block}, {site.grid[0]} × {site.grid[1]}"


model = sdprobe.load()
maps, sites = AttentionMaps(keep=("step", "layer", "head")), Sites()
prompt = "a green star above a purple circle"
run = sample(model, prompt, hooks=[maps, sites], steps=20, guidance_scale=5.0, seed=8, progress=False)
own = run[maps]

modules, names = zip(*run[sites].names.items(), strict=True)
steps = [0, 3, 6, 9, 12, 15, 19]
# mkdocs_gallery_thumbnail_panel = 46
plot.sheet(
    [[own.heat_map("green", step=step, layer=layer).cell() for step in steps] for layer in modules],
    rows=names,
    columns=[f"step {step}" for step in steps],
    title="“green”, by layer and step",
)

# %%
# ## By head
#
# A layer has several heads. In the last layer, every word by every head: heads 1 and 2 attend to the objects; the other
# heads do not follow any one word.

words = ["green", "star", "above", "purple", "circle"]
heads = range(4)
plot.sheet(
    [[run.images[0], *(own.heat_map(word, layer=modules[-1], head=head).cell() for head in heads)] for word in words],
    rows=[f"“{word}”" for word in words],
    columns=["picture", *(f"head {head}" for head in heads)],
    title=f"{names[-1]}, by head",
)

# %%
# ## IoU by step, layer and head
#
# The positions of the objects are known: a detector finds colours and shapes in the picture. So every map of a word is
# compared with the mask of its object, for all layers, heads and steps, in one figure. The values are means over two
# words and the pictures of the first four seeds:

pictures = {"images_per_prompt": 4, "seed": [0, 1, 2, 3]}
run = sample(model, prompt, hooks=[maps], steps=20, guidance_scale=5.0, progress=False, **pictures)
own = run[maps]
found = [{thing.colour: thing.mask for thing in detect(np.asarray(picture))} for picture in run.images]
asked = [(i, word) for i in range(4) for word in ("green", "purple") if word in found[i]]


def overlap(**where):
    """The mean IoU of the maps with their objects."""
    return np.mean([own.heat_map(word, image=i, **where).iou(found[i][word]) for i, word in asked])


by_step = np.array([[overlap(layer=layer, step=step) for step in range(20)] for layer in modules])
by_head = np.array([[overlap(layer=layer, head=head) for head in heads] for layer in modules])
figure = Figure(figsize=(8, 3), layout="constrained")
left, right = figure.subplots(1, 2, sharey=True, width_ratios=(20, 7))
left.imshow(by_step, cmap=plot.HEAT, vmin=0, vmax=by_step.max(), aspect="auto")
left.set(xlabel="step", xticks=range(0, 20, 5), yticks=range(len(modules)), yticklabels=names)
shown = right.imshow(by_head, cmap=plot.HEAT, vmin=0, vmax=by_step.max(), aspect="auto")
right.set(xlabel="head", xticks=heads)
for ax in (left, right):
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
figure.colorbar(shown, label="mean IoU with the object")
figure

# %%
# The sum over all layers is not the best map; a single layer can be better:

best = modules[int(by_step.mean(1).argmax())]
print(f"all layers, heads and steps: {overlap():.2f}")
print(f"{names[modules.index(best)]} alone, all heads and steps: {overlap(layer=best):.2f}")

# %%
# ## Sums of the probabilities
#
# Every recorded entry is a probability: over all tokens, those of each position sum to 1, at every step, in every
# layer, for every head. The smallest and the largest of these sums:

sums = own.row_sums()
print(f"{sums.min():.5f} to {sums.max():.5f}")
