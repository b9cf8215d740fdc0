"""
# Five hooks at once

A swapped word, a guidance schedule, a loss that pushes, heat maps and a film: five ideas that know nothing of each
other, in one pass. What holds for any number of hooks is said by laws, and here they are looked at.
"""

# %%
# ## One pass
#
# Transforms act in the order given; then observers see what came out. The heat maps below are those of the picture as
# it was made, with every change.

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
# ## Any of them, alone or together
#
# A list of hooks is put together like any other list. So an ablation is a loop: every subset of the three changes,
# under the same two observers.

changes = {"star": swap, "8 → 2": schedule, "dark": push}
subsets = [names for k in range(4) for names in itertools.combinations(changes, k)]
runs = [sample(model, prompt, hooks=[*(changes[name] for name in names), maps], **settings) for names in subsets]
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
# The swap does in every column what it does alone. The push depends on what it meets: under the falling guidance alone
# it comes to little, and with the star to as much as ever. Hooks know nothing of each other, but what one of them
# changed is what the next is given.
#
# ## The laws
#
# `Hooks` makes one hook of several, and how they are nested does not matter.

print(Hooks(swap, Hooks(schedule, push)) == Hooks(Hooks(swap, schedule), push))

# %%
# Observers change nothing, wherever they stand; transforms at different points do not depend on their order.

looking_first = sample(model, prompt, hooks=[preview, maps, swap, schedule, push], **settings)
other_order = sample(model, prompt, hooks=[schedule, push, swap], **settings)
for other in (looking_first, other_order):
    print(torch.equal(other.latents, run.latents))

# %%
# At one point the order counts, as it should: a word that is first made longer and then replaced is replaced.

longer = sdprobe.ScaleToken("circle", 3.0)
first, then, alone = (
    sample(model, prompt, hooks=hooks, **settings) for hooks in ([longer, swap], [swap, longer], [swap])
)
print(torch.equal(first.latents, alone.latents), torch.equal(then.latents, alone.latents))

# %%
# ## Nothing stays behind
#
# Afterwards the model is as it was: a plain run makes the very picture that the diffusers pipeline makes.

model.pipe.set_progress_bar_config(disable=True)
stock = model.pipe(
    prompt,
    num_inference_steps=settings["steps"],
    guidance_scale=settings["guidance_scale"],
    generator=torch.Generator("cpu").manual_seed(settings["seed"]),
    output_type="latent",
).images
print(torch.equal(sample(model, prompt, **settings).latents, stock))
