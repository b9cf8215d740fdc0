"""The embedded model's world: coloured shapes on plain backgrounds, whose truth is known."""

from pathlib import Path

from .captions import JOINS, PLACES, RELATIONS, SIZES, Mention, Statement, relation
from .detect import Adherence, Found, adherence, background, detect
from .drawing import BACKGROUNDS, COLOURS, SHAPES, Object
from .scenes import Scene, pair, render, scene

WEIGHTS = Path(__file__).parent / "weights"
"""The shipped model, in diffusers' folder format, and the CLIP beside it in `clip/`."""
JOINT_WEIGHTS = Path(__file__).parent / "weights_joint"
"""The second model, `StableDiffusion3Pipeline` in the same format, once it is trained."""

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "JOINS",
    "JOINT_WEIGHTS",
    "PLACES",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "WEIGHTS",
    "Adherence",
    "Found",
    "Mention",
    "Object",
    "Scene",
    "Statement",
    "adherence",
    "background",
    "detect",
    "pair",
    "relation",
    "render",
    "scene",
]
