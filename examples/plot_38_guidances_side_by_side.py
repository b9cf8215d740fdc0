"""
# Guidances side by side

Classifier-free guidance extrapolates from the prediction without a prompt to the one with it. At a high scale colours
saturate and shapes break. Several newer rules combine the same two predictions in another way; others move away from a
third prediction. Each is one hook, tried on the same sixteen captions, with the same seeds, and counted by a detector.
"""

# %%
# ## The measure
#
# The objects in the colour and the shape of the caption, of thirty-two, and the share of pixel values at 0 or 255. All
# scales were chosen on these captions, and differences of two objects mean little.

import numpy as np

import sdprobe
from sdprobe import plot, sample
from sdprobe.shapes import adherence
from sdprobe.shapes.evaluate import held_out

model = sdprobe.load()
scenes = held_out(16, objects=2)
captions = [own.caption for own in scenes]
runs = {}


def draw(name, hooks, **settings):
    """Draw all captions, and name the run by what was counted."""
    run = sample(model, captions, hooks=hooks, seed=list(range(16)), progress=False, **settings)
    pictures = [np.asarray(image) for image in run.images]
    seen = [adherence(own.objects, own.background, picture) for own, picture in zip(scenes, pictures, strict=True)]
    drawn = np.mean([right for own in seen for right in own.shapes])
    clipped = np.mean([(picture == 0) | (picture == 255) for picture in pictures])
    runs[f"{name}\n{drawn:.0%} drawn\n{clipped:.0%} clipped"] = run


def sheet(shown=(0, 1, 2, 5)):
    """Some of the pictures, under what was counted over all."""
    figure = plot.sheet(
        [[run.images[k] for run in runs.values()] for k in shown],
        rows=[",\n".join(f"{own.colour} {own.shape}" for own in scenes[k].objects) for k in shown],
        columns=list(runs),
    )
    runs.clear()
    return figure


# %%
# ## Two predictions, combined in other ways
#
# At scale 15, in twelve steps. The adaptive projected guidance damps what is parallel to the conditional prediction and
# limits the length of the update; the magnitude-aware one lowers the scale where the update is long; the
# frequency-decoupled one has a scale for fine and one for coarse structure; the tangential one drops what the two
# predictions have in common; CFG-Zero* scales the unconditional prediction, which helps flows and not this model.

high = {"guidance_scale": 15.0, "steps": 12}
draw("scale 15", [], **high)
draw("adaptive\nprojected", [sdprobe.AdaptiveProjectedGuidance()], **high)
draw("magnitude-\naware", [sdprobe.MagnitudeAwareGuidance()], **high)
draw("frequency-\ndecoupled", [sdprobe.FrequencyDecoupledGuidance((10.0, 5.0))], **high)
draw("tangential", [sdprobe.TangentialGuidance()], **high)
draw("CFG-Zero*", [sdprobe.ZeroStarGuidance()], **high)
# mkdocs_gallery_thumbnail_panel = 0
sheet()

# %%
# ## A third prediction
#
# In four steps without classifier-free guidance, some objects are broken. Guidance away from a worse prediction of the
# same denoiser mends some of them: one whose blocks are skipped, one whose self-attention looks at blurred queries, one
# with dropout. Each costs one more call of the denoiser in a step, and no unconditional rows. The gain is small: over
# 64 other captions, the interval of each overlaps with that of no guidance.

few = {"guidance_scale": 1.0, "steps": 4}
draw("no guidance", [], **few)
draw("skipped\nblocks", [sdprobe.SkipLayerGuidance(0.5, modules="down_blocks.0.*")], **few)
draw("smoothed\nenergy", [sdprobe.SmoothedEnergyGuidance(0.5, modules="*")], **few)
draw("dropout", [sdprobe.AutoGuidance(2.0, dropout=0.1, modules="*")], **few)
draw("perturbed\nattention", [sdprobe.PerturbedAttention(0.5, modules="*")], **few)
draw("classifier-\nfree, 3", [], guidance_scale=3.0, steps=4)
sheet()

# %%
# ## In some steps only
#
# Every one of them is limited as any hook is. `CutGuidance` leaves the unconditional rows out of the batch, which
# halves the time of a step.

draw("scale 5", [], guidance_scale=5.0, steps=12)
cut = sdprobe.only(sdprobe.CutGuidance(), steps=range(6, 12))
draw("no guidance from\nstep 6 on", [cut], guidance_scale=5.0, steps=12)
early = sdprobe.only(sdprobe.AdaptiveProjectedGuidance(), steps=range(6))
draw("projected up to\nstep 5, cut from 6", [early, cut], guidance_scale=15.0, steps=12)
sheet()
