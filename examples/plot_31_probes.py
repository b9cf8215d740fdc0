"""
# Linear probes: when is the colour decided?

The prompt names no colour, and each picture gets one. Where in the denoiser, and from which step on, can the colour of
the finished picture be read? A linear probe is fitted on the activations of a module at a step, and tried on pictures
that it was not fitted on (Alain & Bengio 2016; for latent diffusion, Chen et al. 2023). The same is done with shuffled
labels.
"""

# %%
# ## Pictures and labels
#
# One run of many seeds. A label is the colour of the thing that a detector finds in the finished picture; a picture in
# which it does not find exactly one thing has none. The background is named, so that it does not vary.

from collections import Counter

import numpy as np

import sdprobe
from sdprobe import LatentRecorder, plot, sample
from sdprobe.observe.activations import Activations
from sdprobe.observe.linear_probe import LinearProbe
from sdprobe.shapes import detect

MODULES = (
    "conv_in",
    "down_blocks.0.attentions.0",
    "down_blocks.1.attentions.0",
    "mid_block",
    "up_blocks.0.resnets.1",
    "up_blocks.1.attentions.1",
    "up_blocks.2.attentions.0",
    "up_blocks.2.attentions.1",
)
model = sdprobe.load()
count = 256
activations = Activations(MODULES, rows="cond", reduce="mean")
noise = LatentRecorder(steps=[0])
run = sample(
    model,
    "a circle on a grey background",
    hooks=[activations, noise],
    steps=8,
    guidance_scale=5.0,
    images_per_prompt=count,
    seed=list(range(count)),
    progress=False,
)

found = [detect(np.asarray(picture)) for picture in run.images]
labels = [things[0].colour if len(things) == 1 else None for things in found]
colours = Counter(label for label in labels if label)
print(f"{sum(colours.values())} of {count} pictures have a label:")
print(", ".join(f"{colour} {times}" for colour, times in colours.most_common()))
plot.sheet(
    [[run.images[i] for i, label in enumerate(labels) if label == colour][:8] for colour in list(colours)[:4]],
    rows=list(colours)[:4],
)

# %%
# ## Every module, every step
#
# Each activation is averaged over its positions, so a probe reads one vector of each picture. Five folds of the
# pictures: four to fit, the fifth to try. In brackets is Wilson's interval of 95 %. Chance is the share of the most
# frequent colour.

probe = LinearProbe()
result = probe.fit_each(run, labels, steps=[0, 1, 2, 3, 5, 7])
# mkdocs_gallery_thumbnail_panel = 2
result.plot()

# %%
result

# %%
late = result.score[:, -1]
best = int(late.argmax())
print("most, at the last step:", result.keys[best].name, result[result.keys[best], 7].score)
print("mid_block, at the first step:", result["mid_block", 0].score)
print(f"shuffled labels: from {result.control.min():.2f} to {result.control.max():.2f}, chance {result.chance:.2f}")

# %%
# ## What the first step knows
#
# At step 0 the pictures differ in nothing but their noise. So whatever a probe reads there is in the noise: how much of
# it is in the four means of its channels?

first = probe.fit(noise_means := run[noise]["latents"][0].mean((2, 3)), labels)
print("the four means of the noise:", first)
