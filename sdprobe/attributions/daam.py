"""`Daam`: DAAM's heat map of a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdprobe.attributions.mean import Mean
from sdprobe.core.attribution import Word
from sdprobe.core.compose import Hooks
from sdprobe.observe.attention_maps import AttentionMaps


@dataclass(frozen=True)
class Daam(Mean):
    """DAAM's map, at the size of the latents.

    D_w(p) = mean over down and up layers l, heads h and tokens k of w of max(0, bicubic(Σ_t F[t, l, h, k]))(p)

    The sum over steps of the attention F is taken per layer and head, resized bicubically, and negative values are set
    to 0; the mean of these is the map. It leaves out the middle block and sites at an eighth of the latents' size.
    Layers and heads must have been recorded apart, which `AttentionMaps` does without request up to 4 MB.

    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=2, seed=0, progress=False)
    >>> run[maps].heat_map("circle", method="daam")
    HeatMap('circle', 16×16)

    Differences from the authors' code (daam 0.2.0): without guidance it drops half the heads, several images become
    further heads, and pictures that are not square are an error there; here each of these is as the paper defines it.

    Source: Tang et al. 2023, "What the DAAM: Interpreting Stable Diffusion Using Cross Attention" (ACL), section 2.2.
    """

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks(AttentionMaps(words, keep=("layer", "head")))

    def _daam_size(self, maps: AttentionMaps) -> tuple[int, int] | None:
        return maps.latent_size
