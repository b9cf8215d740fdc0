"""
# Writing a hook

A hook is a class with a method for each point of the loop at which it acts. Here are one observer and one transform,
each of a few lines, run together with the hooks of the package.
"""

# %%
# ## An observer
#
# How strong is guidance at each step? The point `model_output` comes before guidance, with one entry for each row; the
# label of a row says whether it got the prompt or the empty prompt. A hook creates its records in `start`.

import torch

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, plot, sample


class GuidanceNorm(sdprobe.Observer):
    """The root mean square of (cond - uncond), step by step."""

    def start(self, run):
        self.norms = []

    def model_output(self, x, step):
        roles = [row.role for row in step.rows]
        cond = x[[i for i, role in enumerate(roles) if role == "cond"]]
        uncond = x[[i for i, role in enumerate(roles) if role == "uncond"]]
        self.norms.append((cond - uncond).square().mean().sqrt().item())


# %%
# ## A transform
#
# The attention to a word can be increased or decreased: multiply its probabilities at every cross-attention site, then
# normalise the probabilities of each position to 1. `attention` gets the call that the model is about to make;
# `with_probs` returns the same call with other probabilities. Rows of the empty prompt are not changed.


class ScaleAttention(sdprobe.Transform):
    """Multiply the attention to a word, or a phrase, by a factor."""

    kinds = ("cross",)

    def __init__(self, word, factor):
        self.word, self.factor = word, factor

    def attention(self, attn, site):
        weights = torch.ones(len(attn.rows), attn.key.shape[-2])
        for i, row in enumerate(attn.rows):
            if row.role == "cond":
                weights[i, list(row.prompt.positions(self.word))] = self.factor
        probs = attn.probs() * weights[:, None, None, :].to(attn.key)
        return attn.with_probs(probs / probs.sum(-1, keepdim=True))


# %%
# ## Both in one run
#
# Transforms act in the order given; observers see the result. So the maps below show the attention after the change.

model = sdprobe.load()
norms, maps, latents = GuidanceNorm(), AttentionMaps(), LatentRecorder(keep=("denoised",), steps=(0, 6, 12, 24))
factors = [0.0, 1.0, 4.0, 16.0]
runs = [
    sample(
        model,
        "a red circle left of a blue square on a white background",
        hooks=[norms, ScaleAttention("blue square", factor), maps, latents],
        steps=25,
        guidance_scale=5.0,
        seed=0,
        progress=False,
    )
    for factor in factors
]
# mkdocs_gallery_thumbnail_panel = 7
plot.sheet(
    [[run.images[0] for run in runs], [run[maps].heat_map("blue square").cell() for run in runs]],
    rows=["picture", "“blue square”"],
    columns=[f"× {factor:g}" for factor in factors],
)

# %%
# Predicted x0, early and late (`LatentRecorder` kept it at four steps), for the first and the last of these runs:


def decoded(run):
    """The recorded x0 predictions as pictures."""
    vae = model.pipe.vae
    with torch.no_grad():
        pixels = vae.decode(run[latents]["denoised"][:, 0] / vae.config.scaling_factor).sample
    return model.pipe.image_processor.postprocess(pixels)


plot.sheet(
    [decoded(runs[0]), decoded(runs[-1])],
    rows=["× 0", "× 16"],
    columns=[f"step {step}" for step in runs[0][latents].indices],
)

# %%
# The record of the observer:

from matplotlib.figure import Figure

figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
for run, factor, style in zip(runs, factors, ("-", "--", "-.", ":"), strict=True):
    ax.plot(run[norms].norms, style, label=f"“blue square” × {factor:g}")
ax.set(xlabel="step", ylabel="root mean square\nof cond − uncond")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure
