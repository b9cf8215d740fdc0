"""Parts of a tiny Qwen-Image-Edit: those of Qwen-Image, and a language model that reads pictures."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2VLImageProcessorPil, Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

from tests.tiny_models.qwen_image import qwen_autoencoder, qwen_encoder, qwen_image, qwen_tokenizer

PLACE = 64
"""Pixels of a patch: pictures are read at some 1024 × 1024 or 384 × 384, whatever the model, and have few tokens so."""

VISION = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")


class PictureProcessor(Qwen2VLProcessor):
    """Qwen's processor without its part for videos, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
        self.image_token, self.image_token_id = VISION[1], tokenizer.convert_tokens_to_ids(VISION[1])
        self.video_token, self.video_token_id = "<|video_pad|>", None
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def qwen_image_edit() -> dict[str, Any]:
    """The parts, for any of its pipelines. The autoencoder's latents are a 32nd of the picture's size."""
    words = qwen_tokenizer()
    words.add_tokens(list(VISION), special_tokens=True)
    parts = qwen_image().components
    torch.manual_seed(1)
    return {
        **parts,
        "tokenizer": words,
        "processor": PictureProcessor(Qwen2VLImageProcessorPil(patch_size=PLACE, merge_size=2), words),
        "text_encoder": qwen_encoder(words, patch_size=PLACE, **_numbers(words)),
        "vae": qwen_autoencoder(halvings=5),
    }


def _numbers(words: Any) -> dict[str, int]:
    names = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
    return dict(zip(names, words.convert_tokens_to_ids(list(VISION)), strict=True))
