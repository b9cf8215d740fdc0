"""Losses for `LossGuidance`. Each function returns a `Loss` and names its source.

A loss returns one number for each of the images ``[images, 3, H, W]`` in [0, 1]; lower is better. Losses can be added,
and multiplied by a weight.
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
