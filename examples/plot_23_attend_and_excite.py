"""
# Attend-and-Excite: nothing left out

If a prompt names two objects, a model often draws only one. Attend-and-Excite (Chefer et al. 2023) uses the
cross-attention while the picture is made: an object whose word gets little attention everywhere is often missing. So
the latents are changed until some position attends to each word.
"""

# %%
# ## Prompts with missing objects
#
# The training captions of the embedded model contain “a red circle in the middle” and “a red circle and a blue square”,
# but never both in one caption. Sixteen seeds each of two such prompts, without and with `AttendAndExcite` for their
# two nouns. The two prompts are among those for which it helps most.

import re

import numpy as np
from matplotlib.figure import Figure

import sdprobe
from sdprobe import AttendAndExcite, AttentionMaps, plot, sample
from sdprobe.shapes import detect

model = sdprobe.load()
settings = {"steps": 10, "guidance_scale": 3.0, "seed": list(range(16)), "images_per_prompt": 16, "progress": False}
prompts = {
    "a large yellow star in the middle with a purple ring": ["star", "ring"],
    "a red circle in the middle and a blue square": ["circle", "square"],
}
maps = AttentionMaps(grids=[8], keep="step")
watching = {prompt: AttendAndExcite(words, scale=0) for prompt, words in prompts.items()}
exciting = {prompt: AttendAndExcite(words, scale=10, thresholds={}) for prompt, words in prompts.items()}
before = {prompt: sample(model, prompt, hooks=[watching[prompt], maps], **settings) for prompt in prompts}
after = {prompt: sample(model, prompt, hooks=[exciting[prompt], maps], **settings) for prompt in prompts}
first, second = prompts
# mkdocs_gallery_thumbnail_panel = 13
plot.sheet(
    [run.images[:8] for run in (before[first], after[first], before[second], after[second])],
    rows=["star, ring", "excited", "circle, square", "excited"],
    columns=[f"seed {k}" for k in range(8)],
)

# %%
# ## Measured with a detector
#
# A detector that does not use the model counts the pictures with both colours, and those with both objects, each in its
# colour and its shape.


def rates(prompt, run, images=range(16)):
    """The share of pictures with both colours, and with both things in their colour and shape."""
    asked = set(re.findall(r"(red|blue|yellow|purple) (circle|square|star|ring)", prompt))
    seen = [{(found.colour, found.shape) for found in detect(np.asarray(run.images[k]))} for k in images]
    colours = [{colour for colour, _ in asked} <= {colour for colour, _ in own} for own in seen]
    return np.mean(colours), np.mean([asked <= own for own in seen])


for prompt in prompts:
    print(prompt)
    for name, run in (("plain", before[prompt]), ("excited", after[prompt])):
        colours, things = rates(prompt, run)
        print(f"    {name:8} both colours {colours:.2f}, both things in colour and shape {things:.2f}")

# %%
# ## The loss by step
#
# The loss is 1 minus the maximum of the attention to a word, for the word with the lowest maximum. With scale 0 it is
# only recorded.

figure = Figure(figsize=(7, 2.6), layout="constrained")
for ax, prompt in zip(figure.subplots(1, 2, sharey=True), prompts, strict=True):
    for name, run, hook, line in (
        ("plain", before[prompt], watching[prompt], "--"),
        ("excited", after[prompt], exciting[prompt], "-"),
    ):
        ax.plot(run[hook].indices, run[hook].losses.mean(1), line, marker=".", color="#35608d", label=name)
    ax.set(xlabel="step", ylabel="loss" if prompt == first else "", ylim=(0, 1))
    ax.set_title(" and ".join(prompts[prompt]), fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
figure

# %%
# The maps of the two words in the first, the third and the fifth step, for a seed in which one object was missing. With
# `AttendAndExcite` the missing object has a position.


def both(prompt, run, k):
    """Whether one picture shows both things, each in its colour and its shape."""
    return rates(prompt, run, [k])[1] == 1


saved = [k for k in range(16) if both(first, after[first], k) and not both(first, before[first], k)]
k = saved[0]
rows = [
    [
        run.images[k],
        *(
            (None, run[maps].heat_map(word, image=k, step=step).normalized().values.numpy())
            for word in prompts[first]
            for step in (0, 2, 4)
        ),
    ]
    for run in (before[first], after[first])
]
plot.sheet(
    rows,
    rows=["plain", "excited"],
    columns=[f"seed {k}", *(f"“{word}”\nstep {step}" for word in prompts[first] for step in (0, 2, 4))],
)

# %%
# ## The grid of the attention
#
# Attention is computed at several grids, and not all of them bind words to positions. By default `AttendAndExcite` uses
# the coarsest grid of the down and up blocks: 16×16 in Stable Diffusion, as in the paper, 8×8 here. The rate of both
# colours over both prompts, by grid:

print(f"{'plain':8} {np.mean([rates(prompt, before[prompt])[0] for prompt in prompts]):.2f}")
for grid in (16, 8, 4):
    runs = {
        prompt: after[prompt]
        if grid == 8
        else sample(model, prompt, hooks=[AttendAndExcite(words, 10, {}, grid=grid)], **settings)
        for prompt, words in prompts.items()
    }
    print(f"{f'{grid}×{grid}':8} {np.mean([rates(prompt, run)[0] for prompt, run in runs.items()]):.2f}")
