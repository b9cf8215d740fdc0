"""
# Which method? Heat maps side by side, and against controls

Many papers say how to attribute a word to places of a picture. Here each is a method of one interface, so that like is
compared with like: the same pictures, the same truth, the same controls.
"""

# %%
# ## One picture, every method
#
# A method says which hooks must record what it needs. One run can have those of all: they only observe. `rise` needs no
# record, since it makes the picture again, many times, with the word hidden at random places.

import numpy as np

import sdprobe
from sdprobe import attributions, experiments, plot
from sdprobe.shapes import detect

model = sdprobe.load()
settings = {"steps": 8, "guidance_scale": 5.0, "progress": False}
prompt, words = "a red ring left of a blue star", ["red", "blue"]
methods = {
    "mean": attributions.Mean(),
    "DAAM": attributions.Daam(),
    "self-refined": attributions.SelfRefined(),
    "OVAM": attributions.Ovam(context="a {} shape"),
    "output space": attributions.OutputSpace(),
    "gradient": attributions.Gradient(),
    "gradient × input": attributions.GradientTimesInput(),
    "integrated": attributions.Integrated(points=4),
    "RISE": attributions.Rise(masks=48),
}
maps = sdprobe.AttentionMaps()
hooks = [maps, sdprobe.SelfAttentionMaps(), sdprobe.AttentionQueries(), sdprobe.ConceptOutputs()]
hooks += [sdprobe.WordGradients(words), *attributions.Integrated(points=4).hooks(words)]
run = sdprobe.sample(model, prompt, hooks=hooks, seed=3, **settings)
truth = {thing.colour: thing.mask for thing in detect(np.asarray(run.images[0]))}
heats = {word: {name: method.heat_map(run, word) for name, method in methods.items()} for word in words}
looking, counting = list(methods)[:5], list(methods)[5:]
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet(
    [[run.images[0], *(heats[word][name].cell() for name in looking)] for word in words],
    rows=[f"“{word}”" for word in words],
    columns=["picture", *looking],
)

# %%
# Those say where the word is looked at, or what is alike. These say what it does there.

plot.sheet(
    [[truth[word].astype(float), *(heats[word][name].cell() for name in counting)] for word in words],
    rows=[f"“{word}”" for word in words],
    columns=["truth", *counting],
)

# %%
# RISE asks another question than the others: not where the word is looked at, but where it is needed. A colour word is
# hardly needed by itself, since the tokens after it know the colour too, so its map is faint, and has much noise.

# %%
# ## From map to mask
#
# A map is cut at a threshold, or where Otsu's method says; spread along the self-attention before, it follows the
# object's edge. Average precision needs no threshold.

looks = run[sdprobe.SelfAttentionMaps].matrix()
heat = run[maps].heat_map("red")
cuts = {
    "threshold 0.6": heat.mask(0.6),
    "Otsu": heat.mask(method="otsu"),
    "self-attention": heat.spread(looks).mask(0.6),
    "largest part": heat.spread(looks).mask(0.6, largest=True),
}
print(f"average precision: {heat.average_precision(truth['red']):.2f}, ", end="")
print(f"spread: {heat.spread(looks).average_precision(truth['red']):.2f}")
plot.sheet(
    [[run.images[0], truth["red"].astype(float), *(cut.float().numpy() for cut in cuts.values())]],
    columns=["picture", "truth", *cuts],
)

# %%
# Several words share the picture out among them. What no word claims is background.

parts = run[maps].segment(words, method="self_refined")
print(f"mean IoU {parts.miou({word: truth[word] for word in words}):.2f}")
parts.overlay()

# %%
# ## A word that is not in the prompt
#
# The queries of the run are kept, so it can be asked afterwards where the picture would have looked at any text.
# Several texts share a place's attention: what goes to one does not go to another.

asked = ["a ring", "a star", "a square"]
alone = [run[maps].heat_map_of(text) for text in asked]
together = run[maps].heat_map_of(asked)
plot.sheet(
    [[own.cell() for own in alone], [own.cell() for own in together.values()]],
    rows=["alone", "beside each other"],
    columns=[f"“{text}”" for text in asked],
)

# %%
# ## All of them, against where things are
#
# Each threshold is chosen on other pictures than it is tested on. Beside the methods stand a random word of the prompt,
# the middle of the picture, and a random field that is as smooth as the mean map. The lines are intervals of 95 %; of
# these few pictures they are wide. The page on attributing a word has the table of more than 200 objects, with all
# methods, deletion curves, time and memory.

cases = experiments.shape_cases(20, objects=2)
compared = {name: methods[name] for name in ("DAAM", "self-refined", "OVAM", "output space", "gradient")}
found = sdprobe.evaluate_attributions(model, cases, compared, deletion=0, timing=0, **settings)
print(found)
found.plot()

# %%
# Pointing does not tell the methods apart; the overlap does, and the controls are far below. A map that fits is not
# yet a map of what the picture needs: that is what [knock-out and deletion](plot_31_is_the_map_causal.py) are for.
