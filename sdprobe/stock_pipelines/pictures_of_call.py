"""`PicturesOfCall`: what a stock pipeline makes of its last latents, on its way past the points."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from sdprobe.core.compose import Hooks
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.outside_modules import listen_to_decoder
from sdprobe.stock_pipelines.pipeline_listener import Call
from sdprobe.stock_pipelines.who_calls import WhoCalls


class PicturesOfCall(WhoCalls):
    """The end of a call of a pipeline: its decoder, its pictures, and what it returns.

    Attributes:
        model: the model of the pipeline.
        run_model: the run's own copy of it.
        run: the run that is filled.
        hooks: its hooks.
    """

    model: Model
    run_model: Model
    run: Run
    hooks: Hooks

    def on_decode(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline decodes its latents."""
        with self.hear_nothing("hook"), listen_to_decoder(self.run_model, self.run, self.hooks):
            return stock(*args, **kwargs)

    def on_postprocess(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline makes pictures of what the decoder gave; or has none made, for ``output_type="latent"``."""
        bound = inspect.signature(stock).bind(*args, **kwargs)
        bound.apply_defaults()
        decoded, output_type, *others = bound.args
        if output_type == "latent":
            return stock(*args, **kwargs)
        with self.hear_nothing("hook"):
            pixels = self.hooks.image(stock(decoded, "pt", *others, **bound.kwargs), self.run)
            self.run.images = self.model.pictures(pixels)
            # Given latents can have other frames than those that were asked for.
            if self.run.settings.frames is not None:
                self.run.settings = replace(self.run.settings, frames=pixels.shape[1])
        return self.model.returned(pixels, self.run.images, output_type)

    def on_return(self, found: Any) -> Any:
        """The call has ended: its pictures are the run's, with what the pipeline has done to them at the very end."""
        images = getattr(found, "images", found[0] if isinstance(found, tuple) else getattr(found, "frames", None))
        if isinstance(images, list) and images and isinstance(images[0], list):
            images = [frame for frames in images for frame in frames]
        if isinstance(images, list) and len(images) == len(self.run.images):
            self.run.images = images
        return found
