"""
# Composition: five hooks at once

A swapped word, a guidance schedule, a loss, heat maps and a film: five hooks that do not know of each other, in one
run. The laws that hold for any number of hooks are checked here.
"""

# %%
# ## One run with five hooks
#
# Transforms act in the order given; then observers see the result. The heat maps below are those of the picture with
# every change.

import itertools

import torch

import sdprobe
from sdprobe import AttentionMaps, Guidance, Hooks, LossGuidance, Preview, ReplaceToken, film, losses, plot, sample

model = sdprobe.load()
prompt = "a red circle left of a blue square"
settings = {"steps": 20, "guidance_scale": 5.0, "seed": 0, "progress": False}

swap = ReplaceToken("circle", with_="star")
schedule = Guidance(lambda step: 8 - 6 * step.index / (step.total - 1))
push = LossGuidance(losses.brightness(0.1), 3, start=2, clip=0.3)
maps, preview = AttentionMaps(), Preview(decoder="vae")

run = sample(model, prompt, hooks=[swap, schedule, push, maps, preview], **settings)
film(run[preview]).sheet(columns=7)

# %%
# ## An ablation over all subsets
#
# Hooks are given as a list, so an ablation is a loop: every subset of the three changes, with the same two observers.

changes = {"star": swap, "8 → 2": schedule, "dark": push}
subsets = [names for k in range(4) for names in itertools.combinations(changes, k)]
runs = [sample(model, prompt, hooks=[*(changes[name] for name in names), maps], **settings) for names in subsets]
# mkdocs_gallery_thumbnail_panel = 7
plot.sheet(
    [
        [own.images[0] for own in runs],
        [own[maps].heat_map("circle").cell() for own in runs],
        [own[maps].heat_map("blue").cell() for own in runs],
    ],
    rows=["picture", "“circle”", "“blue”"],
    columns=["\n+ ".join(names) or "nothing" for names in subsets],
)

# %%
# The swap has the same effect in every column. The effect of the loss depends on the other hooks: with the falling
# guidance alone it is small, and with the star it is as large as alone. Each hook gets the values that the others
# changed.
#
# ## The laws
#
# `Hooks` makes one hook of several, and their nesting does not matter.

print(Hooks(swap, Hooks(schedule, push)) == Hooks(Hooks(swap, schedule), push))

# %%
# Observers change nothing, at any position in the list; transforms at different points do not depend on their order.

looking_first = sample(model, prompt, hooks=[preview, maps, swap, schedule, push], **settings)
other_order = sample(model, prompt, hooks=[schedule, push, swap], **settings)
for other in (looking_first, other_order):
    print(torch.equal(other.latents, run.latents))

# %%
# At one point the order matters, as it should: a word that is first made longer and then replaced is simply replaced.

longer = sdprobe.ScaleToken("circle", 3.0)
first, then, alone = (
    sample(model, prompt, hooks=hooks, **settings) for hooks in ([longer, swap], [swap, longer], [swap])
)
print(torch.equal(first.latents, alone.latents), torch.equal(then.latents, alone.latents))

# %%
# ## The model is unchanged
#
# Afterwards the model is unchanged: a run without hooks makes the same picture as the diffusers pipeline.

model.pipe.set_progress_bar_config(disable=True)
stock = model.pipe(
    prompt,
    num_inference_steps=settings["steps"],
    guidance_scale=settings["guidance_scale"],
    generator=torch.Generator("cpu").manual_seed(settings["seed"]),
    output_type="latent",
).images
print(torch.equal(sample(model, prompt, **settings).latents, stock))
