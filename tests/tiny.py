"""Tiny pipelines of the real classes, with random weights and a real byte-level BPE tokenizer."""

from sdprobe.model.toy_model import TOKENS as TOKENS
from sdprobe.model.toy_model import tokenizer as tokenizer
from sdprobe.model.toy_model import toy_pipeline as stable_diffusion

__all__ = ["TOKENS", "stable_diffusion", "tokenizer"]
