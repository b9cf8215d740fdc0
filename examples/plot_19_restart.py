"""
# Restarting from a step

At which step is it decided what a picture shows? A run that kept `Checkpoints` can be resumed from any of its steps,
with another prompt or other hooks. The steps before are the same; the steps after differ.
"""

# %%
# ## An unchanged restart is exact
#
# A checkpoint holds the latents, what the scheduler remembers of earlier steps, and the state of the noise generator.
# With nothing changed, the resumed run gives the same picture, also with multistep schedulers and with schedulers that
# draw noise at every step.

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
# The prompt is changed at a step. On the left the new prompt is used in all steps, on the right only in the last ones.

seeds = {"seed": [2, 4, 6], "images_per_prompt": 3}
run = sample(model, "a large red circle", hooks=[Checkpoints()], **seeds, **settings)
turned = {step: resume(run, step, prompt="a large blue square", progress=False) for step in range(0, 24, 2)}
shown = (0, 2, 4, 6, 8, 12, 16, 20)
# mkdocs_gallery_thumbnail_panel = 4
plot.sheet(
    [[*(turned[step].images[i] for step in shown), run.images[i]] for i in range(3)],
    rows=[f"seed {seed}" for seed in seeds["seed"]],
    columns=[*(f"from step {step}" for step in shown), "never"],
)

# %%
# The position of the object is decided in the first ten steps; its shape and colour can be changed much later. The
# distance of the final latents shows how near each of these pictures is to that of the other prompt:

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
# Steps keep their numbers, so a hook that uses step numbers means the same in the resumed run, and only the steps from
# there on are computed: here with heat maps and a higher guidance scale for the second half.

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
