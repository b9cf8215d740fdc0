"""CLIP: similarity of images and texts.

Used as `sdprobe.clip.similarity(...)`. Every function uses the embedded model's CLIP, unless it gets another one, made
by `load`.
"""

from sdprobe.clip.pictures_and_texts import (
    NearestTokens,
    classify,
    info_nce,
    nearest_tokens,
    pooled,
    similarity,
    token_vectors,
    unpooled,
)
from sdprobe.clip.similarity_table import Similarity
from sdprobe.model.clip_model import Clip, load

__all__ = [
    "load",
    "similarity",
    "classify",
    "nearest_tokens",
    "token_vectors",
    "pooled",
    "unpooled",
    "info_nce",
    "Clip",
    "Similarity",
    "NearestTokens",
]
