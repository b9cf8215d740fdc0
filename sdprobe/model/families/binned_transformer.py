"""`BinnedTransformer`: base class of the families that work at sizes they know and read prompts in lower case."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from diffusers.utils import is_bs4_available, is_ftfy_available
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Settings
from sdprobe.model.families.transformer import TransformerModel

Bins = Mapping[str, list[float]]
"""The heights and widths, in pixels, that a transformer was trained for, by their ratio."""


class BinnedTransformer(TransformerModel):
    """A family whose transformer works at the nearest of the sizes it was trained for.

    The image is cut to the size asked for, as in the pipeline. Prompts are read in lower case and, if the pipeline is
    asked to and the libraries for it are installed, cleaned.

    Attributes:
        bins: the sizes, by the transformer's own sample size. Others work at any size.
    """

    bins: ClassVar[Mapping[int, Bins]]

    @property
    def multiple(self) -> int:
        return 8 if self.known_sizes else math.lcm(8, super().multiple)

    @property
    def known_sizes(self) -> Bins | None:
        """The sizes that the pipeline takes the nearest of; None if it works at any."""
        return self.bins.get(self.denoiser.config.sample_size)

    @property
    def _cleans(self) -> bool:
        return bool(self.argument("clean_caption")) and is_bs4_available() and is_ftfy_available()

    def latent_size(self, settings: Settings) -> tuple[int, int]:
        height, width = self._worked_at(settings)
        return height // self.scale_factor, width // self.scale_factor

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        told = self.spelt(text, self.tokenizer)
        own = self.read_told(told, encoder)
        lead = text.lower().find(told)
        if lead < 0:  # more than white space was removed: words are located in the rest
            return own
        spans = tuple((a + lead, b + lead) if a < b else (a, b) for a, b in own.spans)
        return replace(own, text=text, spans=spans)

    def read_told(self, told: str, encoder: str | None = None) -> Prompt:
        """Tokenize a text that is in lower case and cleaned already."""
        return super().read(told, encoder)

    def spelt(self, text: str, tokenizer: Any) -> str:
        cleaned: list[str] = self.pipe._text_preprocessing(text, clean_caption=self._cleans)
        return cleaned[0]

    def decode(self, x: Tensor, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        image = vae.decode(x.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        if self.known_sizes:
            image = self.pipe.image_processor.resize_and_crop_tensor(image, self.settings.width, self.settings.height)
        return self.finished(image)

    def _worked_at(self, settings: Settings) -> tuple[int, int]:
        """Return the height and width, in pixels, at which the transformer works."""
        if self.known_sizes is None:
            return settings.height, settings.width
        found = self.pipe.image_processor.classify_height_width_bin(
            settings.height, settings.width, ratios=self.known_sizes
        )
        return int(found[0]), int(found[1])
