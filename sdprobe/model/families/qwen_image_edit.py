"""Qwen-Image-Edit: Qwen-Image with pictures, which the language model reads and the denoiser is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions
from PIL import Image

from sdprobe.core.prompt import Prompt
from sdprobe.model.families.qwen_image import MASK, QwenImage
from sdprobe.model.text.conditioning import EMBEDS, DenoiserArguments, to_length
from sdprobe.model.text.tokenize_prompt import read_in_template, side_by_side

PICTURE = "<|image_pad|>"
BEFORE_PICTURES = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
"""What the pipelines of several pictures put before the prompt for each of them."""


class QwenImageEdit(QwenImage):
    """Qwen-Image-Edit, also inpainting and the pipeline of several pictures. It is for `sdprobe.attach` alone.

    The language model reads the pictures before the prompt, so that the first tokens of the text are theirs: these have
    the role ``"start"``, as has the template. How many they are depends on the pictures of the call. The denoiser is
    shown the pictures once more, after the one that it makes: `Site.reference`.
    """

    pipelines: ClassVar[tuple[str, ...]] = (
        "QwenImageEditPipeline",
        "QwenImageEditInpaintPipeline",
        "QwenImageEditPlusPipeline",
    )
    variants: ClassVar[tuple[str, ...]] = ()
    img2img = None

    def asked_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return how a call reads texts: also the pictures, at the size at which they are read."""
        picture = given.get("image")
        pictures = list(picture) if isinstance(picture, list) else [] if picture is None else [picture]
        # A call of ``encode_prompt`` is given them at that size; one of the pipeline is not.
        sized = [*map(self._sized, pictures)] if "num_inference_steps" in given else pictures
        return {**super().asked_of(given), "pictures": sized}

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        before, after = self.pipe.prompt_template_encode.split("{}")
        pictures = self.asked.get("pictures", [])
        if self._several:
            before += "".join(BEFORE_PICTURES.format(i + 1) for i in range(len(pictures)))
        counts = map(self._tokens_of, pictures)
        before = re.sub(re.escape(PICTURE), lambda place: PICTURE * next(counts, 1), before)
        dropped = self.dropped if encoder is None else 0
        own = read_in_template(self.tokenizer, text, before, after, dropped=dropped)
        return side_by_side(text, {("text_encoder",): own}) if encoder is None else own

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        """Encode each text by itself, beside the pictures of the call."""
        pictures = self.asked.get("pictures") or None
        each = [self.pipe.encode_prompt([text], image=pictures, device=self.device) for text in texts]
        longest = max(embeds.shape[1] for embeds, _ in each)
        embeds = torch.cat([to_length(own, longest) for own, _ in each])
        if all(own.shape[1] == longest for own, _ in each):
            return {EMBEDS: embeds}
        lengths = torch.tensor([own.shape[1] for own, _ in each], device=self.device)
        return {EMBEDS: embeds, MASK: (torch.arange(longest, device=self.device) < lengths[:, None]).long()}

    @property
    def tokens_shown(self) -> int:
        """How many tokens of a text the denoiser is shown at most: nothing is cut."""
        return int(self.tokenizer.model_max_length)

    @property
    def _several(self) -> bool:
        return isinstance(self.pipe, plus.QwenImageEditPlusPipeline)

    def _sized(self, picture: Any) -> Any:
        """Return a picture as the language model is shown it."""
        if not isinstance(picture, Image.Image):
            raise ValueError(f"give {type(self.pipe).__name__} images of PIL, from whose size it tells its own")
        area = plus.CONDITION_IMAGE_SIZE if self._several else plus.VAE_IMAGE_SIZE
        width, height, *_ = calculate_dimensions(area, picture.width / picture.height)
        return self.pipe.image_processor.resize(picture, height, width)

    def _tokens_of(self, picture: Any) -> int:
        processor = self.pipe.processor.image_processor
        patches = int(processor.get_number_of_image_patches(picture.height, picture.width, {}))
        return patches // int(processor.merge_size) ** 2
