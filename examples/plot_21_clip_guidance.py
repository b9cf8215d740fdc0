"""
# Steer with CLIP

The prompt asks for a circle and leaves the colour open. A loss asks CLIP which of eight colours it sees, and pushes
every step towards blue. Nothing is trained for it, and not a word of the prompt is changed.
"""

# %%
# ## A classifier out of CLIP
#
# The cosines of a picture with eight sentences, times CLIP's own scale, are the logits of eight classes. The loss is
# the negative log-probability of one of them.

import numpy as np
import torch

import sdprobe
from sdprobe import LossGuidance, losses, plot, sample
from sdprobe.shapes import COLOURS, detect

model, clip = sdprobe.load(), sdprobe.clip.load()
labels = list(COLOURS)
with torch.no_grad():
    words = clip.text_features([f"a {colour} circle" for colour in labels])


def logits(pictures):
    """How CLIP tells the eight colours apart."""
    return clip.logit_scale * clip.image_features(pictures) @ words.T


is_blue = losses.log_probability(logits, labels.index("blue"))

# %%
# ## Before and after
#
# A gradient through CLIP alone finds patterns that move CLIP and no one else. Through the denoiser as well
# (`through="model"`), what does not belong to a picture is filtered out in part: some pictures fade all the same.
# `clip` keeps each push within a bound, and the first step is left out: there the prediction is hardly a picture yet.

settings = {"steps": 14, "guidance_scale": 1.5, "seed": list(range(16)), "images_per_prompt": 16, "progress": False}
watched = LossGuidance(is_blue, 0)
pushed = LossGuidance(is_blue, 20, start=1, through="model", apply="sample", clip=0.2)
before = sample(model, "a circle", hooks=[watched], **settings)
after = sample(model, "a circle", hooks=[pushed], **settings)
plot.sheet(
    [[run.images[k] for k in range(8)] for run in (before, after)],
    rows=["no guidance", "towards blue"],
    columns=[f"seed {k}" for k in range(8)],
)

# %%
# CLIP is convinced easily. A detector that knows nothing of CLIP counts the pictures, of all sixteen, in which there is
# a blue thing, and gives the lower and more honest number:

for name, run in {"no guidance": before, "towards blue": after}.items():
    with torch.no_grad():
        loss = is_blue(sdprobe.decode(model, run.latents))
    seen = [{found.colour for found in detect(np.asarray(image))} for image in run.images]
    says, shown = int((loss < np.log(2)).sum()), sum("blue" in own for own in seen)
    print(f"{name:13s} loss {loss.mean():5.2f}; blue says CLIP {says} times of 16, the detector {shown}")

# %%
# ## Step by step

after[pushed].plot()
