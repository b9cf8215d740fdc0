"""
# Which heads? Ablation and relevance

Some heads of cross-attention look at words of colour, others at words of shape (head relevance vectors, Park et al.
2025). Do they also do what they look at? Each head is taken out, and what the pictures lose is measured.
"""

# %%
# ## What each head looks at

import sdprobe
from sdprobe import experiments
from sdprobe.experiments.measures import ColourShown, ShapeShown
from sdprobe.shapes import COLOURS, SHAPES

model = sdprobe.load()
over = experiments.shape_cases(24)
settings = {"steps": 8, "guidance_scale": 5.0, "progress": False}
concepts = {"colour": list(COLOURS), "shape": list(SHAPES)}
relevance = experiments.head_relevance(model, concepts, over, **settings)
# mkdocs_gallery_thumbnail_panel = 0
relevance.plot()

# %%
# ## What each head is needed for

ablated = experiments.head_ablation(model, over, measures=[ColourShown("{colour}"), ShapeShown("{shape}")], **settings)
ablated.plot()
