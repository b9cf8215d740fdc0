"""
# Mixtures of tokens and of prompts

Between the embeddings of two words are vectors that belong to no word. Here tokens are mixed, then whole prompts. Then
a swap of a word is limited: which steps, and which layers, must get the other word to change the picture?
"""

# %%
# ## A token between two words
#
# `MixTokens` replaces a word's embedding by a weighted sum of words' embeddings, before the text encoder. Everything
# else, the noise too, is the same.

import sdprobe
from sdprobe import MixPrompts, MixTokens, ReplaceToken, only, plot, sample

model = sdprobe.load()
prompt = "a red circle on a white background"
settings = {"steps": 25, "guidance_scale": 5.0, "progress": False}
weights = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
seeds = [0, 1]

mixed = [
    sample(model, [prompt] * 2, hooks=[MixTokens({"red": 1 - w, "blue": w}, at="red")], seed=seeds, **settings)
    for w in weights
]
# mkdocs_gallery_thumbnail_panel = 3
plot.sheet(
    [[run.images[i] for run in mixed] for i in range(len(seeds))],
    rows=[f"seed {seed}" for seed in seeds],
    columns=[f"{w:.1f} blue" for w in weights],
)

# %%
# ## A mixture of two prompts
#
# `MixPrompts` mixes after the text encoder: it adds the outputs for two whole prompts, with weights.

chimeras = [
    sample(
        model,
        [prompt] * 2,
        hooks=[MixPrompts({prompt: 1 - w, "a blue square on a black background": w})],
        seed=seeds,
        **settings,
    )
    for w in weights
]
plot.sheet(
    [[run.images[i] for run in chimeras] for i in range(len(seeds))],
    rows=[f"seed {seed}" for seed in seeds],
    columns=[f"{w:.1f} of the other" for w in weights],
)

# %%
# ## Which steps decide?
#
# `only` limits any hook. A limited swap leaves the prompt as it is; in the given steps the denoiser gets the other
# word. In the first row “blue” replaces “red” in the first steps; in the second row, in the last steps.

swap = ReplaceToken("red", with_="blue")
cuts = [0, 8, 16, 18, 20, 22, 25]
early = [[only(swap, steps=range(cut))] if cut else [] for cut in cuts]  # a limit to no step at all is an error
late = [[only(swap, steps=range(cut, 25))] if cut < 25 else [] for cut in cuts]
plot.sheet(
    [[sample(model, prompt, hooks=hooks, seed=0, **settings).images[0] for hooks in row] for row in (early, late)],
    rows=["blue before", "blue from"],
    columns=[f"step {cut}" for cut in cuts],
)

# %%
# ## Which layers decide?
#
# The same by attention site: only the sites at 16 × 16, or only those at 8 × 8, get the other word.

sites = {
    "none": [],
    "16 × 16 only": [only(swap, sites=lambda site: site.grid == (16, 16))],
    "8 × 8 only": [only(swap, sites=lambda site: site.grid == (8, 8))],
    "middle only": [only(swap, sites="mid_block.*")],
    "up blocks only": [only(swap, sites="up_blocks.*")],
    "all": [swap],
}
layers = [sample(model, [prompt] * 2, hooks=hooks, seed=seeds, **settings) for hooks in sites.values()]
plot.sheet(
    [[run.images[i] for run in layers] for i in range(len(seeds))],
    rows=[f"seed {seed}" for seed in seeds],
    columns=list(sites),
)

# %%
# With every step and every site, the limited swap equals the swap, bit for bit:

everywhere = sample(model, prompt, hooks=[only(swap, steps=range(25))], seed=0, **settings)
print(bool((everywhere.latents == sample(model, prompt, hooks=[swap], seed=0, **settings).latents).all()))
