"""`looks_at_picture`: the queries of a picture that no run made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from sdprobe.core.run import Run
from sdprobe.model.loading import load
from sdprobe.observe.attention_queries import AttentionQueries
from sdprobe.sampling.look import look

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The noise levels, as parts of the model's training timesteps."""


def looks_at_picture(model: Any, picture: Image, seed: int = 0, levels: Sequence[float] = LEVELS) -> list[Run]:
    """Noise a picture to several levels, call the denoiser once at each with an empty prompt, and record the queries.

    All these queries are of this very picture, and no prompt is needed. In image-to-image the picture would change, and
    a mask of it would not fit any more; an inversion takes many more calls of the denoiser, and its path is that of the
    picture only as far as its prompt describes it.

    Args:
        model: the model, or a live pipeline.
        picture: the picture.
        seed: the seed of the noise.
        levels: the noise levels, from 0 to 1.
    """
    model = load(model)
    count = model.pipe.scheduler.config.num_train_timesteps
    timesteps = [min(int(level * count), count - 1) for level in levels]
    return [look(model, picture, "", timestep, hooks=[AttentionQueries()], seed=seed) for timestep in timesteps]
