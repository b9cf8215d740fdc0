"""
# Go back and turn off

When is it settled what a picture will show? A run that kept `Checkpoints` can be gone on from at any of its steps, with
another prompt or other hooks. What comes before the step is then the same run; what comes after is another.
"""

# %%
# ## Exactly where it stood
#
# A checkpoint holds the latents, what the scheduler remembers of earlier steps, and where the noise generator is. With
# nothing changed, the new run ends in the very same picture, also with a scheduler that remembers and one that draws
# noise at every step.

import sdprobe
from sdprobe import AttentionMaps, Checkpoints, Guidance, plot, resume, sample

model = sdprobe.load()
settings = {"steps": 25, "guidance_scale": 5.0, "progress": False}
for scheduler in ("DDIM", "DPMSolverMultistep", "EulerAncestralDiscrete"):
    run = sample(model, "a large red circle", hooks=[Checkpoints()], seed=2, scheduler=scheduler, **settings)
    again = resume(run, step=12, progress=False)
    print(f"{scheduler:24}", bool((again.latents == run.latents).all()))

# %%
# ## Another word from a step on
#
# The prompt is changed at one step after another. To the left the new prompt has the whole run, to the right only the
# last steps.

seeds = {"seed": [2, 4, 6], "images_per_prompt": 3}
run = sample(model, "a large red circle", hooks=[Checkpoints()], **seeds, **settings)
turned = {step: resume(run, step, prompt="a large blue square", progress=False) for step in range(0, 24, 2)}
shown = (0, 2, 4, 6, 8, 12, 16, 20)
plot.sheet(
    [[*(turned[step].images[i] for step in shown), run.images[i]] for i in range(3)],
    rows=[f"seed {seed}" for seed in seeds["seed"]],
    columns=[*(f"from step {step}" for step in shown), "never"],
)

# %%
# Where the object stands is settled within the first ten steps; its shape and colour can be turned long after. The
# distance of the final latents says how near each of these pictures is to that of the other prompt:

from matplotlib.figure import Figure

other = turned[0].latents


def apart(a, b):
    """The root mean square difference of each picture's latents."""
    return (a - b).square().mean((1, 2, 3)).sqrt()


figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
for i, style in enumerate(("-", "--", ":")):
    gone = [float(1 - apart(own.latents, other)[i] / apart(run.latents, other)[i]) for own in turned.values()]
    ax.plot(list(turned), gone, style, color="black", label=f"seed {seeds['seed'][i]}")
ax.set(xlabel="step from which the prompt is another", ylabel="share of the way\nto the other picture")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure

# %%
# ## Other hooks
#
# Steps keep their numbers, so a hook that knows steps means the same in the new run, and only what is asked for is
# computed: here, heat maps and a stronger guidance for the second half.

maps = AttentionMaps()
half = resume(run, 12, hooks=[maps, Guidance(12.0)], progress=False)
plot.sheet(
    [
        [run.images[i], half.images[i], *(half[maps].heat_map(word, image=i).cell() for word in ("red", "circle"))]
        for i in range(3)
    ],
    rows=[f"seed {seed}" for seed in seeds["seed"]],
    columns=["the run", "guided by 12\nfrom step 12", "“red”", "“circle”"],
)
