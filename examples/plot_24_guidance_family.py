"""
# Perturbed-attention and self-attention guidance

Classifier-free guidance moves away from the prediction without a prompt. Other guidances move away from the prediction
of a degraded denoiser, and need no prompt; others limit the effect of a high scale. Here each of them is used for the
same sixteen captions, which are not in the training data, with the same sixteen seeds, and a detector counts the
objects.
"""

# %%
# ## The measure
#
# Two numbers: the objects in the colour and the shape of the caption, of thirty-two; and the share of pixel values at 0
# or 255, which are clipped.

import numpy as np

import sdprobe
from sdprobe import (
    DynamicThreshold,
    Guidance,
    PerturbedAttention,
    RescaleGuidance,
    SelfAttentionGuidance,
    only,
    plot,
    sample,
)
from sdprobe.shapes import adherence
from sdprobe.shapes.evaluate import held_out

model = sdprobe.load()
scenes = held_out(16, objects=2)
captions = [own.caption for own in scenes]
settings = {"seed": list(range(16)), "progress": False}
runs, drawn, clipped = {}, {}, {}


def draw(name, hooks, guidance_scale, steps):
    """Draw all captions, and count."""
    runs[name] = sample(model, captions, hooks=hooks, guidance_scale=guidance_scale, steps=steps, **settings)
    pictures = [np.asarray(image) for image in runs[name].images]
    seen = [adherence(own.objects, own.background, picture) for own, picture in zip(scenes, pictures, strict=True)]
    drawn[name] = np.mean([right for own in seen for right in own.shapes])
    clipped[name] = np.mean([(picture == 0) | (picture == 255) for picture in pictures])


def sheet(names, shown=(0, 1, 2, 5)):
    """Some of the pictures, under what was counted over all."""
    return plot.sheet(
        [[runs[name].images[k] for name in names] for k in shown],
        rows=[",\n".join(f"{own.colour} {own.shape}" for own in scenes[k].objects) for k in shown],
        columns=[f"{name}\n{drawn[name]:.0%} drawn\n{clipped[name]:.0%} clipped" for name in names],
    )


# %%
# ## Guidance without an unconditional prediction
#
# `PerturbedAttention` moves away from the prediction with an identity in place of self-attention: every position
# attends to itself alone, so the structure of objects is lost. The paper does that in the middle block of the U-Net
# only. This small U-Net hardly uses its middle block, so here it is done everywhere. `SelfAttentionGuidance` moves away
# from the picture that is blurred where self-attention is high. Both work at guidance scale 1, that is, without
# classifier-free guidance; each costs one further call of the denoiser at each step, as much as classifier-free
# guidance does. In twelve steps the embedded model needs none of them; in four, some objects are broken.

draw("no guidance", [], 1.0, steps=4)
draw("self-attention\nguidance", [SelfAttentionGuidance(0.75)], 1.0, steps=4)
draw("perturbed attention\nin the middle", [PerturbedAttention(3.0)], 1.0, steps=4)
draw("perturbed attention\neverywhere", [PerturbedAttention(0.5, modules="*")], 1.0, steps=4)
draw("classifier-free\nscale 3", [], 3.0, steps=4)
# mkdocs_gallery_thumbnail_panel = 3
sheet(list(runs))

# %%
# Together with classifier-free guidance the two effects add up: the contrast is higher than with either alone, and the
# pictures are no better.

draw("both", [PerturbedAttention(0.5, modules="*")], 3.0, steps=4)
for name in ("classifier-free\nscale 3", "perturbed attention\neverywhere", "both"):
    print(f"{name.replace(chr(10), ' '):30s} {drawn[name]:.0%} drawn, {clipped[name]:.0%} of the pixels clipped")

# %%
# ## High scales and their remedies
#
# At scale 15 colours are saturated and shapes break. Three remedies: `RescaleGuidance` rescales the noise to the
# standard deviation of the conditional one; `DynamicThreshold` limits predicted x0 of each image to the range it would
# have at a lower scale (“mimic scale”); and an interval turns guidance off at the highest and at the lowest noise
# levels.


def mild(step):
    """What |x0| would reach at scale 5, for each image."""
    guided = model.guide(step.model_output, step.rows, 5.0)
    return step.denoised(guided).abs().flatten(1).quantile(0.995, dim=1)


LOW, HIGH = 0.3, 5.0
draw("scale 15", [], 15.0, steps=12)
draw("rescaled by 0.7", [RescaleGuidance(0.7)], 15.0, steps=12)
draw("dynamic threshold", [DynamicThreshold(0.995, bound=mild)], 15.0, steps=12)
draw("in an interval", [only(Guidance(1.0), steps=lambda step: not LOW < step.sigma <= HIGH)], 15.0, steps=12)
sheet(["scale 15", "rescaled by 0.7", "dynamic threshold", "in an interval"])

# %%
# The threshold clips almost nothing, but the colours are paler; the interval keeps the colours, and part of their
# saturation. All can be combined: they are hooks, and act in the order given.
