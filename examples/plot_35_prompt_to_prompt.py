"""
# Prompt-to-prompt: edit a picture by its words

With the same seed, a prompt with one other word gives another picture: what is not named differently changes too.
Prompt-to-prompt makes the edit look where its source looked, and four kinds of edit follow from it.
"""

# %%
# ## A word is swapped
#
# `edit` samples source and edit side by side, from the same noise. In the first steps, the places of the edit look at
# “blue” as those of the source look at “red”, and at each other as those of the source do: the more steps of the
# latter, the more of the outline stays. Beside it stands the target prompt alone, with the same seed.

import numpy as np

import sdprobe
from sdprobe import AttentionMaps, InjectSelfAttention, ReplaceAttention, ReweightAttention, edit, only, plot, sample

model = sdprobe.load()
settings = {"steps": 20, "guidance_scale": 5.0, "progress": False}
source, target = "a red circle left of a green square", "a blue circle left of a green square"


def changed(image, other):
    """Where two pictures differ, from 0 to 1: by half of the levels, and more."""
    difference = np.abs(np.asarray(image).astype(float) - np.asarray(other)).max(-1)
    return np.clip(difference / 128, 0, 1)


rows = []
kept = {"self_attention": 0.8, **settings}
for seed in range(3):
    edited = edit(model, source, target, seed=seed, **kept)
    blended = edit(model, source, target, seed=seed, blend=(["red", "circle"], ["blue", "circle"]), **kept)
    alone = sample(model, target, seed=seed, **settings)
    before, after = edited.images
    rows.append([before, alone.images[0], after, blended.images[1]])
    rows.append([None, *(changed(image, before) for image in rows[-1][1:])])
plot.sheet(
    rows,
    rows=[label for seed in range(3) for label in (f"seed {seed}", "changed")],
    columns=["source", "target prompt\nalone", "replaced\nattention", "and local\nblend"],
)

# %%
# The last column has a `LocalBlend`: outside of the circle the latents of the source are kept.
#
# ## Words are added
#
# If the target has words that the source has not, the common words take the source's attention, and new ones keep their
# own (`RefineAttention`). One call can have several edits.

targets = [
    "a large red circle left of a green square",
    "a red circle left of a green square on a black background",
    "a red circle left of a green square on a striped background",
]
refined = [edit(model, source, targets, seed=seed, **settings) for seed in range(3)]
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet([run.images for run in refined], columns=["source", "“large”", "“on a black\nbackground”", "“striped”"])

# %%
# ## A word is weighted
#
# `ReweightAttention` needs no second prompt: it multiplies the attention to a word. 1 changes nothing, 0 takes the word
# out, and a negative factor asks for its opposite.

factors = (-2.0, 0.0, 0.5, 1.0, 2.0, 4.0)
weighted = [
    [sample(model, source, seed=seed, hooks=[ReweightAttention({"red": own})], **settings).images[0] for own in factors]
    for seed in range(3)
]
plot.sheet(weighted, columns=[f"“red” × {own:g}" for own in factors])

# %%
# ## The parts by themselves
#
# `edit` is a run of two prompts with hooks, which can be used alone, limited, and put together with any others. Here
# attention to the text, self-attention, or both are the source's, each for a growing share of the steps; the heat map
# of the edit is recorded in the same pass.

shares = (0.2, 0.4, 0.8)
lines, maps = [], AttentionMaps()
for hook in (ReplaceAttention, InjectSelfAttention):
    runs = [sample(model, [source, target], seed=[2, 2], hooks=[hook(until=s), maps], **settings) for s in shares]
    edits = [own for run in runs for own in (run.images[1], run[maps].heat_map("blue", image=1).cell())]
    lines.append([runs[0].images[0], *edits])
plot.sheet(
    lines,
    rows=["attention\nto the text", "self-attention"],
    columns=["source", *(label for share in shares for label in (f"{share:.0%} of steps", "“blue”"))],
)

# %%
# A limit of `only` works as with every hook: attention is replaced in one layer alone.

one_layer = only(ReplaceAttention(), sites="up_blocks.2.*")
run = sample(model, [source, target], seed=[2, 2], hooks=[one_layer], **settings)
print(run.coverage)
