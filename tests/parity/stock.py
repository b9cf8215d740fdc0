"""What a run and a call of a stock pipeline are held against each other by."""

from __future__ import annotations

import sdprobe


def observers() -> list[sdprobe.Observer]:
    """Observers that must change nothing, of every kind."""
    return [
        sdprobe.AttentionMaps(keep=("step", "layer", "head")),
        sdprobe.AttentionMaps(words=["a"]),
        sdprobe.SelfAttentionMaps(strict=False),
        sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised")),
        sdprobe.Statistics(),
        sdprobe.Progress(),
    ]
