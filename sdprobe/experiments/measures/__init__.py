"""What is measured of each picture."""

from sdprobe.experiments.measures.clip_similarity import PictureSimilarity, TextSimilarity
from sdprobe.experiments.measures.latent_change import LatentChange
from sdprobe.experiments.measures.measure import Measure
from sdprobe.experiments.measures.perceptual_distance import PerceptualDistance
from sdprobe.experiments.measures.picture_change import PictureChange
from sdprobe.experiments.measures.region import Area, Detected, Heated, Outside, Region
from sdprobe.experiments.measures.shown import (
    BackgroundShown,
    ColourShown,
    ObjectCount,
    ObjectOverlap,
    ObjectShown,
    RelationShown,
    ShapeShown,
)
from sdprobe.experiments.measures.structural_similarity import StructuralSimilarity

__all__ = [
    "Measure",
    "PictureChange",
    "LatentChange",
    "StructuralSimilarity",
    "PerceptualDistance",
    "TextSimilarity",
    "PictureSimilarity",
    "ColourShown",
    "ShapeShown",
    "ObjectShown",
    "RelationShown",
    "BackgroundShown",
    "ObjectCount",
    "ObjectOverlap",
    "Region",
    "Detected",
    "Heated",
    "Area",
    "Outside",
]
