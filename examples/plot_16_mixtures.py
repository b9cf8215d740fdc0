"""
# Mixtures, and who sees them

Between two words lies a line of vectors that no word names. Here tokens are mixed, whole prompts are mixed, and then
the question is turned around: which steps, and which layers, have to see the other word?
"""

# %%
# ## A token between two words
#
# `MixTokens` puts a weighted sum of words' embeddings where a word stands, before the text encoder. Everything else,
# the noise too, stays the same.

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
plot.sheet(
    [[run.images[i] for run in mixed] for i in range(len(seeds))],
    rows=[f"seed {seed}" for seed in seeds],
    columns=[f"{w:.1f} blue" for w in weights],
)

# %%
# ## A chimera of two prompts
#
# `MixPrompts` mixes behind the encoder instead: the sum of what it makes of two whole sentences.

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
# `only` limits any hook. Limited, a swap leaves the prompt as it is; in the steps it is given, the denoiser is told the
# other word. Above, “blue” stands for “red” in the first steps; below, in the last ones.

swap = ReplaceToken("red", with_="blue")
cuts = [0, 8, 16, 18, 20, 22, 25]
early = [sample(model, prompt, hooks=[only(swap, steps=range(cut))], seed=0, **settings) for cut in cuts]
late = [sample(model, prompt, hooks=[only(swap, steps=range(cut, 25))], seed=0, **settings) for cut in cuts]
plot.sheet(
    [[run.images[0] for run in early], [run.images[0] for run in late]],
    rows=["blue before", "blue from"],
    columns=[f"step {cut}" for cut in cuts],
)

# %%
# ## Which layers decide?
#
# The same by site: only the attention at 16 × 16, or only that at 8 × 8, reads the other word.

sites = {
    "none": [],
    "16 × 16 only": [only(swap, sites=lambda site: site.grid == (16, 16))],
    "8 × 8 only": [only(swap, sites=lambda site: site.grid == (8, 8))],
    "middle only": [only(swap, sites="mid_block.*")],
    "on the way up": [only(swap, sites="up_blocks.*")],
    "all": [swap],
}
layers = [sample(model, [prompt] * 2, hooks=hooks, seed=seeds, **settings) for hooks in sites.values()]
plot.sheet(
    [[run.images[i] for run in layers] for i in range(len(seeds))],
    rows=[f"seed {seed}" for seed in seeds],
    columns=list(sites),
)

# %%
# With every step and every site, the limited swap is the swap, to the last bit:

everywhere = sample(model, prompt, hooks=[only(swap, steps=range(25))], seed=0, **settings)
print(bool((everywhere.latents == sample(model, prompt, hooks=[swap], seed=0, **settings).latents).all()))
