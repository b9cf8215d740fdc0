"""Runs whose picture is a rendered scene, so that what it shows is known."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from PIL import Image

import sdprobe
from sdprobe.shapes import Object, render


def pictured(run: sdprobe.Run, picture: Any) -> sdprobe.Run:
    """Return a copy of a run with another picture: an array, or objects of `sdprobe.shapes` on white."""
    pixels = picture if isinstance(picture, np.ndarray) else render(picture).image
    copied = copy.copy(run)
    copied.images = [Image.fromarray(pixels)]
    return copied


RED_CIRCLE = Object("circle", "red", (18, 32), 12)
BLUE_SQUARE = Object("square", "blue", (46, 30), 12)
