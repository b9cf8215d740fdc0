"""
# CLIP guidance

The prompt asks for a circle without a colour. The loss is the probability that CLIP gives to blue among eight colours,
and its gradient guides every step. Nothing is trained, and the prompt is not changed.
"""

# %%
# ## A zero-shot classifier as a loss
#
# The cosines of a picture with eight sentences, times the logit scale of CLIP, are the logits of eight classes. The
# loss is the negative log-probability of one of them.

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
    """The logits of the eight colours."""
    return clip.logit_scale * clip.image_features(pictures) @ words.T


is_blue = losses.log_probability(logits, labels.index("blue"))


def is_blue_in_cuts(pictures, step):
    """The same, over four random crops of each picture, with a little noise, which few adversarial patterns survive."""
    dice = torch.Generator().manual_seed(step.index)
    found = []
    for _ in range(4):
        side = int(torch.randint(40, 65, (), generator=dice))
        top, left = (int(torch.randint(65 - side, (), generator=dice)) for _ in range(2))
        part = pictures[..., top : top + side, left : left + side]
        part = torch.nn.functional.interpolate(part, size=64, mode="bilinear")
        found.append(is_blue((part + 0.05 * torch.randn(part.shape, generator=dice)).clamp(0, 1)))
    return torch.stack(found).mean(0)


# %%
# ## With and without guidance
#
# A gradient through CLIP alone leads to patterns that change the features of CLIP and nothing that a person sees. A
# gradient through the denoiser as well (`through="model"`), over random crops of each picture, suppresses such patterns
# in part; some pictures still get another colour. `clip` bounds each change, and the first step is left out: there
# predicted x0 is hardly a picture yet.

settings = {"steps": 14, "guidance_scale": 1.5, "seed": list(range(16)), "images_per_prompt": 16, "progress": False}
watched = LossGuidance(is_blue, 0)
pushed = LossGuidance(is_blue_in_cuts, 20, start=1, through="model", apply="sample", clip=0.2)
before = sample(model, "a circle", hooks=[watched], **settings)
after = sample(model, "a circle", hooks=[pushed], **settings)
# mkdocs_gallery_thumbnail_panel = 11
plot.sheet(
    [[run.images[k] for k in range(8)] for run in (before, after)],
    rows=["no guidance", "towards blue"],
    columns=[f"seed {k}" for k in range(8)],
)

# %%
# The cosine between the picture's features and those of “a blue circle” rises, and so does the probability that CLIP
# gives to blue. A detector that does not use CLIP counts the pictures, of all sixteen, in which there is a blue object,
# and gives a lower number, which is the fairer one:

for name, run in {"no guidance": before, "towards blue": after}.items():
    with torch.no_grad():
        pictures = sdprobe.decode(model, run.latents)
        loss, similarity = is_blue(pictures), clip.image_features(pictures) @ words[labels.index("blue")]
    seen = [{found.colour for found in detect(np.asarray(image))} for image in run.images]
    says, shown = int((loss < np.log(2)).sum()), sum("blue" in own for own in seen)
    print(f"{name:13s} loss {loss.mean():5.2f}, similarity {similarity.mean():.2f}", end="; ")
    print(f"blue says CLIP {says} times of 16, the detector {shown}")

# %%
# ## Losses by step

after[pushed].plot()
