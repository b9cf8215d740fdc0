"""Losses for `LossGuidance`: each a small function that makes one, with its source.

A loss gives one number for each of the pictures ``[images, 3, H, W]`` in [0, 1] it is shown, the less the better.
Losses can be added, and multiplied with a weight.
"""

from sdprobe.losses.loss import Loss
from sdprobe.losses.perceptual import clip_image, clip_text, encoder_features, log_probability, perceptual, style
from sdprobe.losses.pixels import blue, brightness, colour, inside, match, symmetry, total_variation

__all__ = [
    "Loss",
    "blue",
    "colour",
    "brightness",
    "symmetry",
    "total_variation",
    "match",
    "inside",
    "clip_text",
    "clip_image",
    "log_probability",
    "encoder_features",
    "style",
    "perceptual",
]
