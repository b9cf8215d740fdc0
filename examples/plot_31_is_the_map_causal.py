"""
# Is the map causal? Knock-out and deletion

The heat map of a word shows where the picture looked at its token. Does the picture need what it saw there? Two tests:
the word is hidden from the whole picture (attention knock-out, Geva et al. 2023), and it is hidden from growing shares
of the picture, in the order of its map (deletion, as in RISE, Petsiuk et al. 2018). The pictures of this model can be
judged without another model: a detector finds shapes drawn by rule.
"""

# %%
# ## Words and maps
#
# Each case is a prompt of one object with a seed. Its `words` are named by what they are for, so that a condition can
# say `"{colour}"`; "a photo of" leaves other words for the controls. The maps of both words lie on the object.

from dataclasses import replace

import sdprobe
from sdprobe import AttentionMaps, HideTokens, experiments, plot, sample
from sdprobe.experiments.measures import ColourShown, Detected, PictureChange, ShapeShown

model = sdprobe.load()
over = [replace(case, prompt=f"a photo of {case.prompt}") for case in experiments.shape_cases(20)]
settings = {"steps": 8, "guidance_scale": 5.0, "progress": False}
some = over[:4]
maps = AttentionMaps()
run = sample(model, [case.prompt for case in some], seed=[case.seed for case in some], hooks=[maps], **settings)
plot.sheet(
    [
        run.images,
        [run[maps].heat_map(case.words["colour"], image=k).cell() for k, case in enumerate(some)],
        [run[maps].heat_map(case.words["shape"], image=k).cell() for k, case in enumerate(some)],
    ],
    rows=["picture", "map of the colour", "map of the shape"],
    columns=[case.prompt for case in some],
)

# %%
# ## The same pictures without the words
#
# `HideTokens` keeps every place of the picture from looking at some tokens. The text encoder is not touched.

hidden = {
    "without the colour": lambda case: [case.words["colour"]],
    "without the shape": lambda case: [case.words["shape"]],
    "without both": lambda case: [case.words["colour"], case.words["shape"]],
}
rows = []
for words in hidden.values():
    hooks = [sdprobe.only(HideTokens(words(case)), rows=[k]) for k, case in enumerate(some)]
    changed = sample(model, [case.prompt for case in some], seed=[case.seed for case in some], hooks=hooks, **settings)
    rows.append(changed.images)
plot.sheet([run.images, *rows], rows=["untouched", *hidden], columns=[case.prompt for case in some])

# %%
# ## Knock-out
#
# Each case is run under every condition from the same noise, in one batch. The controls come with the experiment: as
# many random other words of the prompt. The lines are intervals of 95 %; where all cases agree, they say what 20 cases
# may have missed. The page on experiments has the numbers of 100.

words = {
    "colour": "{colour}",
    "shape": "{shape}",
    "both": ["{colour}", "{shape}"],
    "all of these": ["{colour}", "{shape}", "<pad>", "<end>"],
}
measures = [ColourShown("{colour}"), ShapeShown("{shape}")]
result = experiments.knock_out(model, over, words, measures=measures, **settings)
print(result.summary())
# mkdocs_gallery_thumbnail_panel = 0
result.plot()

# %%
# The map of the colour word lies on the object, and yet its token is not needed: without it every picture has its
# colour. Without the token of the shape most lose the shape, and keep the colour. Without both, more than half still
# have the colour: padding and end, which the text encoder makes of all that comes before them, say it too. Only without
# all of these is it lost. So a token that is not needed is no word that is not used: the word is in other tokens as
# well.

# %%
# ## Deletion, in the order of the map
#
# Now both words of one of two objects are hidden, but only from a share of the places: first where their map is
# highest. If the map shows where the words act, the object changes at a small share. The controls: lowest first; the
# map of the other object's words; and a random field of the same smoothness. What is measured is the mean change of the
# pixels of the object, from 0 to 255.

two = experiments.shape_cases(5, objects=2)
change = {"change of the object": PictureChange(within=Detected("{colour} {shape}"))}
own, other = "{colour} {shape}", "{other_colour} {other_shape}"
shares = (0.05, 0.1, 0.3, 0.7)
curves = experiments.deletion(model, two, own, other=other, shares=shares, measures=change, **settings)
for order in curves.orders:
    shares, means = curves.curve(order, "change of the object")
    at = shares.index(0.1)
    print(f"{order}: {means[at]} at a share of 0.1")
curves.plot()

# %%
# Here the map holds. The words hidden at a tenth of the places, those where it is highest, change the object as much as
# hidden at seven tenths; at another tenth they change hardly anything. The random field changes more than the other
# controls, because some of its places lie on the object.
